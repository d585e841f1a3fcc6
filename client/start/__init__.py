"""Making, joining and leaving a cluster. The only place that may import all sides."""
