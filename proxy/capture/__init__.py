"""Captures: the exchanges of a rollout, recorded into one file for training and evaluation."""
