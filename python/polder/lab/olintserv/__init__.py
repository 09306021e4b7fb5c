"""OLIntServ in the laboratory: reservations on both last hops, the spread plane between them, a stream across (BandExSOS §III)."""
