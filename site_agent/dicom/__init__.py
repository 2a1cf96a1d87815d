"""From a PACS to cases: sources, the door, volumes, roles, labels, the prepared data set. docs/data.md."""
