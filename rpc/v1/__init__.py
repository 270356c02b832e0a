"""The API `milliseek.rpc.v1`: its `.proto` files are the source of truth, the
stubs beside them are generated.

After a change of a `.proto` file, in the root of the repository:

    python -m grpc_tools.protoc -I .types --python_out=.types --pyi_out=.types \\
        milliseek/rpc/v1/error.proto milliseek/rpc/v1/latency.proto
    python -m grpc_tools.protoc -I .types --grpc_python_out=.types --mypy_grpc_out=quiet:.types \\
        milliseek/rpc/v1/latency.proto
"""
