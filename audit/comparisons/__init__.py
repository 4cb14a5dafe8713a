"""The comparisons that a plan may name; the table that ties a name to its class is in `audit.comparisons.table`."""
