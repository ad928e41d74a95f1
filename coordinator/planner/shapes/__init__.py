"""Plans of more than one pipeline of single nodes: copies, replicas, pipelines side by side; and all compared."""
