"""Teaching: datasets, jobs, trainers, deployments."""
