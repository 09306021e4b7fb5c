"""The authority, enrolment and access rules, without I/O."""
