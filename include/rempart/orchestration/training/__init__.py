"""Airflow operators and triggers of training: jobs in pods and TrainJobs, watched and cleaned up."""
