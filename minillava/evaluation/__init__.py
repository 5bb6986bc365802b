"""What a model is worth: metrics, the judge, and the tables they fill."""
