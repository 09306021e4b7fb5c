//! The laboratory's wide-area switch and its attackers.
