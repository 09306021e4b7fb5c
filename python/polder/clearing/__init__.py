"""The clearing house: its books, its rules, its HTTP interface; and the ISP's and provider's sides of it."""
