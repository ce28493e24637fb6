"""`zoo fit`: a folder of labelled images -> a model of the zoo."""
