"""Message classes of the gRPC protocol, built from the published field numbers in a descriptor pool of their own.

A private pool lets one process also import tritonclient, or any other stubs of package ``inference``, without a clash.
The tables below are the whole protocol this server speaks; a field is ``name: type number``, ``*`` repeats, ``{}`` is a
map from string, and ``|`` puts a field into the message's oneof.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_MESSAGES = """
ServerLiveRequest
ServerLiveResponse          live: bool 1
ServerReadyRequest
ServerReadyResponse         ready: bool 1
ModelReadyRequest           name: string 1, version: string 2
ModelReadyResponse          ready: bool 1
ServerMetadataRequest
ServerMetadataResponse      name: string 1, version: string 2, extensions: *string 3
ModelMetadataRequest        name: string 1, version: string 2
TensorMetadata              name: string 1, datatype: string 2, shape: *int64 3
ModelMetadataResponse       name: string 1, versions: *string 2, platform: string 3, inputs: *TensorMetadata 4, \
outputs: *TensorMetadata 5
InferParameter              bool_param: |bool 1, int64_param: |int64 2, string_param: |string 3, \
double_param: |double 4, uint64_param: |uint64 5
InferTensorContents         bool_contents: *bool 1, int_contents: *int32 2, int64_contents: *int64 3, \
uint_contents: *uint32 4, uint64_contents: *uint64 5, fp32_contents: *float 6, fp64_contents: *double 7, \
bytes_contents: *bytes 8
InferInputTensor            name: string 1, datatype: string 2, shape: *int64 3, parameters: {}InferParameter 4, \
contents: InferTensorContents 5
InferRequestedOutputTensor  name: string 1, parameters: {}InferParameter 2
ModelInferRequest           model_name: string 1, model_version: string 2, id: string 3, \
parameters: {}InferParameter 4, inputs: *InferInputTensor 5, outputs: *InferRequestedOutputTensor 6, \
raw_input_contents: *bytes 7
InferOutputTensor           name: string 1, datatype: string 2, shape: *int64 3, parameters: {}InferParameter 4, \
contents: InferTensorContents 5
ModelInferResponse          model_name: string 1, model_version: string 2, id: string 3, \
parameters: {}InferParameter 4, outputs: *InferOutputTensor 5, raw_output_contents: *bytes 6
ModelStatisticsRequest      name: string 1, version: string 2
StatisticDuration           count: uint64 1, ns: uint64 2
InferStatistics             success: StatisticDuration 1, fail: StatisticDuration 2, queue: StatisticDuration 3, \
compute_input: StatisticDuration 4, compute_infer: StatisticDuration 5, compute_output: StatisticDuration 6, \
cache_hit: StatisticDuration 7, cache_miss: StatisticDuration 8
InferBatchStatistics        batch_size: uint64 1, compute_input: StatisticDuration 2, \
compute_infer: StatisticDuration 3, compute_output: StatisticDuration 4
MemoryUsage                 type: string 1, id: int64 2, byte_size: uint64 3
ModelStatistics             name: string 1, version: string 2, last_inference: uint64 3, inference_count: uint64 4, \
execution_count: uint64 5, inference_stats: InferStatistics 6, batch_stats: *InferBatchStatistics 7, \
memory_usage: *MemoryUsage 8
ModelStatisticsResponse     model_stats: *ModelStatistics 1
ModelRepositoryParameter    bool_param: |bool 1, int64_param: |int64 2, string_param: |string 3, bytes_param: |bytes 4
RepositoryIndexRequest      repository_name: string 1, ready: bool 2
ModelIndex                  name: string 1, version: string 2, state: string 3, reason: string 4
RepositoryIndexResponse     models: *ModelIndex 1
RepositoryModelLoadRequest  repository_name: string 1, model_name: string 2, parameters: {}ModelRepositoryParameter 3
RepositoryModelLoadResponse
RepositoryModelUnloadRequest  repository_name: string 1, model_name: string 2, \
parameters: {}ModelRepositoryParameter 3
RepositoryModelUnloadResponse
"""
# ``TensorMetadata`` and its like are nested in their responses in the published file; nesting changes no byte on the
# wire, so they stand flat here.

_HEALTH = """
HealthCheckRequest          service: string 1
HealthCheckResponse         status: int32 1
"""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "int32": _Field.TYPE_INT32,
    "uint32": _Field.TYPE_UINT32,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def build(package: str, table: str) -> dict[str, Any]:
    """Return message classes by name, from a table like those above."""
    file = descriptor_pb2.FileDescriptorProto(name=f"whet/{package}.proto", package=package, syntax="proto3")
    for line in table.strip().splitlines():
        name, _, fields = line.strip().partition(" ")
        message = file.message_type.add(name=name)
        for part in filter(None, (field.strip() for field in fields.split(","))):
            field, _, rest = part.partition(": ")
            kind, number = rest.split()
            _add_field(package, message, field, kind, int(number))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message.name}"))
        for message in file.message_type
    }


def _add_field(package: str, message: Any, name: str, kind: str, number: int) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.startswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index, kind = 0, kind[1:]
    elif kind.startswith("*"):
        field.label, kind = _Field.LABEL_REPEATED, kind[1:]
    elif kind.startswith("{}"):
        # A map is a repeated message of key and value, by the name the compiler would give it.
        entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        _add_field(package, entry, "key", "string", 1)
        _add_field(package, entry, "value", kind[2:], 2)
        field.label, kind = _Field.LABEL_REPEATED, f"{message.name}.{entry.name}"
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"


INFERENCE = build("inference", _MESSAGES)
"""Messages of ``inference.GRPCInferenceService`` by name."""
HEALTH = build("grpc.health.v1", _HEALTH)
"""Messages of ``grpc.health.v1.Health`` by name; an enum travels as its number."""
