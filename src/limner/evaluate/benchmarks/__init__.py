"""What a model is asked, one file per question: naming, drawing, stories."""
