"""The latency service: what it asks of the predictors, how it answers over gRPC, and how it is started."""
