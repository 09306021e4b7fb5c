"""HTTP faces: the authority's enrolment service and the administrator's socket."""
