"""What the site's filter must admit, as a plan, and its renderings."""
