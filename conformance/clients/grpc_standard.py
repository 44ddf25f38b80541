"""gRPC's standard services from the outside, without our .proto: reflection, health, and a call by reflected types."""

from __future__ import annotations

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from checks import Checks, target

TARGET = target()
channel = grpc.insecure_channel(TARGET["grpc"])
reflection = ProtoReflectionDescriptorDatabase(channel)
checks = Checks()
check = checks.check
SECONDS = 30.0


@check("reflection lists our services beside health")
def _() -> None:
    services = set(reflection.get_services())
    assert {"glm_crush.v1.Models", "grpc.health.v1.Health"} <= services, services


@check("every listed service and its messages resolve by reflection")
def _() -> None:
    pool = DescriptorPool(reflection)
    for name in reflection.get_services():
        if name.startswith("grpc.reflection"):
            continue
        for method in pool.FindServiceByName(name).methods:
            assert method.input_type.full_name
            assert method.output_type.full_name


@check("health is SERVING for the server and for each service; an unknown one is NOT_FOUND")
def _() -> None:
    health = health_pb2_grpc.HealthStub(channel)
    names = ["", *(name for name in reflection.get_services() if name.startswith("glm_crush"))]
    for name in names:
        reply = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING, name
    try:
        health.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=SECONDS)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND
    else:
        raise AssertionError("an unknown service is healthy")


@check("health can be watched")
def _() -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert next(iter(watch)).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


@check("a call made of reflected types alone is answered")
def _() -> None:
    pool = DescriptorPool(reflection)
    method = pool.FindServiceByName("glm_crush.v1.Models").FindMethodByName("Tokenize")
    request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call = channel.unary_unary(
        "/glm_crush.v1.Models/Tokenize",
        request_serializer=request.SerializeToString,
        response_deserializer=reply.FromString,
    )
    assert len(call(request(text="one two three"), timeout=SECONDS).token_ids) > 0


@check("a deadline that has passed is DEADLINE_EXCEEDED, an unknown method UNIMPLEMENTED")
def _() -> None:
    for path, seconds, code in (
        ("/grpc.health.v1.Health/Watch", 0.2, grpc.StatusCode.DEADLINE_EXCEEDED),
        ("/glm_crush.v1.Models/Dance", SECONDS, grpc.StatusCode.UNIMPLEMENTED),
    ):
        call = channel.unary_stream(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            list(call(b"", timeout=seconds))
        except grpc.RpcError as error:
            assert error.code() is code, error.code()
        else:
            raise AssertionError(path)


checks.run()
