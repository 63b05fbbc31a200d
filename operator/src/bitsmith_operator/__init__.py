"""The cluster's reconcile loop: FineTuneJobs become jobs, WorkerPools become worker pods, and both say how they are.

Postgres is the truth: what is in the cluster is a projection (a job's life in a status) or a hand (a pod). Every round
looks at everything again, so that a lost message, a restart or a second operator costs one round and nothing else.
"""
