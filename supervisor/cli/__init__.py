"""`wharfctl`. An ordinary command imports only small parts of the standard library: it shall start in no time."""
