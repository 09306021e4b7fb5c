//! A snapshot compiled into lookup tables: who may go where, and by which next hop.
