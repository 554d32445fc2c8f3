"""Where recipes meet runs and papers: training, evaluation, plans, tables, claims."""
