"""What enrolled users notice while an access point is attacked in every way that a stranger or a hostile user has."""
