"""What a model is worth: metrics and figures, pure functions of predictions."""
