from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UploadModelRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadModelHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[UploadModelHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadModelHeader(_message.Message):
    __slots__ = ("name", "expected_sha256", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    expected_sha256: str
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., expected_sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class UploadModelResponse(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class PredictModelRequest(_message.Message):
    __slots__ = ("sha256", "target")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    target: str
    def __init__(self, sha256: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class PredictModelResponse(_message.Message):
    __slots__ = ("prediction",)
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ...) -> None: ...

class StreamPredictModelsRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: PredictModelRequest
    def __init__(self, request: _Optional[_Union[PredictModelRequest, _Mapping]] = ...) -> None: ...

class StreamPredictModelsResponse(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: PredictModelResponse
    def __init__(self, response: _Optional[_Union[PredictModelResponse, _Mapping]] = ...) -> None: ...

class PredictKernelsRequest(_message.Message):
    __slots__ = ("target", "kernels")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    target: str
    kernels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, target: _Optional[str] = ..., kernels: _Optional[_Iterable[str]] = ...) -> None: ...

class PredictKernelsResponse(_message.Message):
    __slots__ = ("kernels", "predictor")
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_FIELD_NUMBER: _ClassVar[int]
    kernels: _containers.RepeatedCompositeFieldContainer[KernelLatency]
    predictor: str
    def __init__(self, kernels: _Optional[_Iterable[_Union[KernelLatency, _Mapping]]] = ..., predictor: _Optional[str] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("target", "predictor", "latency_ms", "interval_low_ms", "interval_high_ms", "uncovered", "kernels", "notes")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_LOW_MS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_HIGH_MS_FIELD_NUMBER: _ClassVar[int]
    UNCOVERED_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    target: str
    predictor: str
    latency_ms: float
    interval_low_ms: float
    interval_high_ms: float
    uncovered: float
    kernels: _containers.RepeatedCompositeFieldContainer[KernelLatency]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, target: _Optional[str] = ..., predictor: _Optional[str] = ..., latency_ms: _Optional[float] = ..., interval_low_ms: _Optional[float] = ..., interval_high_ms: _Optional[float] = ..., uncovered: _Optional[float] = ..., kernels: _Optional[_Iterable[_Union[KernelLatency, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class KernelLatency(_message.Message):
    __slots__ = ("kind", "config", "latency_ms", "count", "covered", "spec")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    COVERED_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    kind: str
    config: str
    latency_ms: float
    count: int
    covered: bool
    spec: str
    def __init__(self, kind: _Optional[str] = ..., config: _Optional[str] = ..., latency_ms: _Optional[float] = ..., count: _Optional[int] = ..., covered: _Optional[bool] = ..., spec: _Optional[str] = ...) -> None: ...

class RelativeInterval(_message.Message):
    __slots__ = ("below", "above")
    BELOW_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    below: float
    above: float
    def __init__(self, below: _Optional[float] = ..., above: _Optional[float] = ...) -> None: ...

class PredictSubnetsRequest(_message.Message):
    __slots__ = ("space", "target", "genes_per_subnet", "genes")
    SPACE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    GENES_PER_SUBNET_FIELD_NUMBER: _ClassVar[int]
    GENES_FIELD_NUMBER: _ClassVar[int]
    space: str
    target: str
    genes_per_subnet: int
    genes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, space: _Optional[str] = ..., target: _Optional[str] = ..., genes_per_subnet: _Optional[int] = ..., genes: _Optional[_Iterable[int]] = ...) -> None: ...

class PredictSubnetsResponse(_message.Message):
    __slots__ = ("latency_ms", "interval", "predictor")
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_FIELD_NUMBER: _ClassVar[int]
    latency_ms: _containers.RepeatedScalarFieldContainer[float]
    interval: RelativeInterval
    predictor: str
    def __init__(self, latency_ms: _Optional[_Iterable[float]] = ..., interval: _Optional[_Union[RelativeInterval, _Mapping]] = ..., predictor: _Optional[str] = ...) -> None: ...

class StreamPredictSubnetsRequest(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: PredictSubnetsRequest
    def __init__(self, batch: _Optional[_Union[PredictSubnetsRequest, _Mapping]] = ...) -> None: ...

class StreamPredictSubnetsResponse(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: PredictSubnetsResponse
    def __init__(self, batch: _Optional[_Union[PredictSubnetsResponse, _Mapping]] = ...) -> None: ...

class GetLatencyTableRequest(_message.Message):
    __slots__ = ("space", "target")
    SPACE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    space: str
    target: str
    def __init__(self, space: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class GetLatencyTableResponse(_message.Message):
    __slots__ = ("header", "keys", "latency_ms")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    header: LatencyTableHeader
    keys: _containers.RepeatedScalarFieldContainer[int]
    latency_ms: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, header: _Optional[_Union[LatencyTableHeader, _Mapping]] = ..., keys: _Optional[_Iterable[int]] = ..., latency_ms: _Optional[_Iterable[float]] = ...) -> None: ...

class LatencyTableHeader(_message.Message):
    __slots__ = ("space", "target", "predictor", "rows", "columns", "constant_ms", "interval")
    SPACE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_MS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    space: str
    target: str
    predictor: str
    rows: int
    columns: int
    constant_ms: float
    interval: RelativeInterval
    def __init__(self, space: _Optional[str] = ..., target: _Optional[str] = ..., predictor: _Optional[str] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., constant_ms: _Optional[float] = ..., interval: _Optional[_Union[RelativeInterval, _Mapping]] = ...) -> None: ...

class ListTargetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTargetsResponse(_message.Message):
    __slots__ = ("targets",)
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[TargetInfo]
    def __init__(self, targets: _Optional[_Iterable[_Union[TargetInfo, _Mapping]]] = ...) -> None: ...

class TargetInfo(_message.Message):
    __slots__ = ("name", "predictor", "runtime_version", "held_out")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_VERSION_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    predictor: str
    runtime_version: str
    held_out: _struct_pb2.Struct
    def __init__(self, name: _Optional[str] = ..., predictor: _Optional[str] = ..., runtime_version: _Optional[str] = ..., held_out: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...
