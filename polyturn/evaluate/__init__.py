"""From played and scored groups to rows with intervals, tables and paired comparisons."""
