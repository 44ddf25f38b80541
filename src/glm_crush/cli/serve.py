"""`glm serve`: every protocol over one model or several, with embedding models and rerankers beside them."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from glm_crush.cli.completion import stored_names
from glm_crush.cli.options import (
    ContextPolicyOption,
    DraftModelOption,
    EngineOption,
    EnginePlace,
    KvDtypeOption,
    LoraModulesOption,
    PrefixStoreBytesOption,
    PrefixStoreOption,
    SpeculationOption,
    ThreadsOption,
    WeightFormatOption,
    duration,
    lora_modules,
    settings_from,
)

if TYPE_CHECKING:
    from glm_crush.config import Settings
    from glm_crush.serving.part import ServerPart
    from glm_crush.serving.served_models import ServedModels
    from glm_crush.storage.lazy import LazyDatabase

__all__ = ["serve"]


def serve(
    ctx: typer.Context,
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Store names or paths, or NAME=PATH; the first is what requests get that name none.",
            autocompletion=stored_names,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", min=0, max=65535, help="0 = any free one.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option("--grpc-port", min=0, max=65535, help="Serve gRPC too, on this port.")
    ] = None,
    ollama_port: Annotated[
        int | None,
        typer.Option("--ollama-port", min=0, max=65535, help="Listen there too, for Ollama's clients: 11434."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="Key that clients must send; needed off loopback.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What clients call the first model.")] = None,
    pin: Annotated[
        bool | None, typer.Option("--pin/--no-pin", help="Keep these models in memory until the server ends.")
    ] = None,
    load_on_demand: Annotated[
        bool | None,
        typer.Option("--load-on-demand/--no-load-on-demand", help="Load other models of the store when asked."),
    ] = None,
    model_memory: Annotated[
        str | None, typer.Option("--model-memory", metavar="BYTES", help="For all models together, e.g. 8G.")
    ] = None,
    model_ttl: Annotated[
        str | None,
        typer.Option("--model-ttl", metavar="DURATION", help="How long others stay idle, e.g. 5m; -1 = for ever."),
    ] = None,
    context_length: Annotated[
        str | None, typer.Option("--context", "-c", metavar="TOKENS", help="Longest prompt and reply, e.g. 8k.")
    ] = None,
    kv_cache_tokens: Annotated[
        str | None,
        typer.Option("--kv-cache", metavar="TOKENS", help="Tokens all requests together may keep, e.g. 64k."),
    ] = None,
    max_num_seqs: Annotated[int | None, typer.Option("--max-num-seqs", min=1, help="Requests run together.")] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option("--max-num-batched-tokens", min=1, help="Tokens one step may compute.")
    ] = None,
    threads: ThreadsOption = None,
    weight_format: WeightFormatOption = None,
    kv_dtype: KvDtypeOption = None,
    engine_place: EngineOption = None,
    speculation: SpeculationOption = None,
    draft_model: DraftModelOption = None,
    prefix_store: PrefixStoreOption = None,
    prefix_store_bytes: PrefixStoreBytesOption = None,
    explain_cache: Annotated[
        bool, typer.Option("--explain-cache", help="Say in usage where and why a prompt was not cached any further.")
    ] = False,
    context_policy: ContextPolicyOption = None,
    embedding_model: Annotated[
        str | None, typer.Option("--embedding-model", help="An embedding model to serve beside it, such as minilm.")
    ] = None,
    lora: LoraModulesOption = None,
    reranker: Annotated[str | None, typer.Option("--reranker", help="A cross-encoder to serve beside it.")] = None,
) -> None:
    """Serve models: OpenAI, Anthropic and Ollama APIs, WebSocket, GraphQL, MCP, and gRPC with --grpc-port.

    Ctrl-C stops: running requests may finish first.
    """
    from glm_crush.engine.process.spawned_child import SpawnedChild

    adapters = lora_modules(lora)
    load = partial(
        settings_from,
        ctx,
        api__host=host,
        api__port=port,
        api__ollama_port=ollama_port,
        api__grpc_port=grpc_port,
        api__key=api_key,
        api__engine_process=None if engine_place is None else engine_place is EnginePlace.process,
        model__context_length=context_length,
        crush__kv_cache_tokens=kv_cache_tokens,
        crush__max_num_seqs=max_num_seqs,
        crush__max_num_batched_tokens=max_num_batched_tokens,
        crush__threads=threads,
        crush__weight_format=weight_format,
        crush__kv_dtype=kv_dtype,
        crush__speculation=speculation,
        crush__draft_model=draft_model,
        crush__prefix_store=prefix_store,
        crush__prefix_store_bytes=prefix_store_bytes,
        api__explain_cache=explain_cache or None,
        crush__context_policy=context_policy,
        encoders__embedding_model=embedding_model,
        encoders__reranker_model=reranker,
        serving__pin=pin,
        serving__load_on_demand=load_on_demand,
        serving__model_memory_bytes=model_memory,
        serving__model_ttl_seconds=duration(model_ttl, "--model-ttl"),
    )
    settings = load()
    with ExitStack() as held:
        gc.disable()  # until modules are imported, which stay: see `_import_server`
        held.callback(gc.enable)
        spawned = None
        if settings.api.engine_process:
            # First of all: the engine's process imports while this one does.
            spawned = SpawnedChild(preload="glm_crush.engine.build")
            held.callback(spawned.discard)
        from glm_crush.cli.console import print_lines
        from glm_crush.cli.models import open_store
        from glm_crush.cli.serve_models import models_change, start_models
        from glm_crush.serving.gateway.exposure import check_exposure
        from glm_crush.serving.observability.logs import configure_logs, log_level_change
        from glm_crush.serving.server import bind, run_server, server_url

        check_exposure(settings)
        configure_logs(settings.api.log_level, settings.observability.log_format)
        bound = held.enter_context(bind(settings.api))
        second = settings.api.ollama_port
        also = [] if second is None else [held.enter_context(bind(settings.api, second))]
        models = start_models(settings, given or [], name, spawned, meanwhile=_import_server)

        from glm_crush.serving.adapters import LoraAdapters
        from glm_crush.serving.app import create_app
        from glm_crush.serving.reloading.reloading import Reloading
        from glm_crush.serving.stopping import Stopping
        from glm_crush.storage.lazy import LazyDatabase

        database = LazyDatabase(settings.storage, settings.store.home)
        for lora_name, lora_path in adapters:
            LoraAdapters(models).load(lora_name, lora_path, models.default)

        rules = [] if settings.guard.rules_file is None else [settings.guard.rules_file]

        def load_again() -> Settings:
            again = load()
            check_exposure(again)
            return again

        reloading = Reloading(settings, load_again, [settings.config_file, *rules])
        reloading.add(log_level_change())
        if not given:
            reloading.add(models_change(models, name))
        stopping = Stopping(settings.api.shutdown_timeout_seconds)
        app = create_app(
            models,
            settings.api,
            gateway_settings=settings.gateway,
            database=database,
            store=open_store(settings),
            parts=_parts(settings, models, database),
            reloading=reloading,
            stopping=stopping,
        )

        def ready(url: str) -> None:
            from glm_crush.cli.banner import banner, labelled

            lines = banner(url, models, needs_key=settings.api.key is not None)
            secure = settings.gateway.tls_cert is not None
            print_lines([*lines, *(labelled("Ollama", server_url(listener, secure=secure)) for listener in also)])

        run_server(
            app,
            bound,
            settings.api,
            settings.gateway,
            on_ready=ready,
            also=also,
            reloading=reloading,
            stopping=stopping,
        )


def _import_server() -> None:
    """What takes long to import and is not needed for the engine to begin."""
    import glm_crush.serving.app
    import glm_crush.serving.http_server  # noqa: F401

    # Modules are no garbage: looking through them takes time now, and would again while requests run.
    gc.freeze()
    gc.enable()


def _parts(settings: Settings, models: ServedModels, database: LazyDatabase) -> list[ServerPart]:
    """What speaks to clients beside the routes that every server has, and what watches over it."""
    from glm_crush.cli.banner import labelled
    from glm_crush.cli.console import print_lines
    from glm_crush.serving.graphql.part import GraphqlPart
    from glm_crush.serving.guard.part import GuardPart
    from glm_crush.serving.mcp.part import McpPart
    from glm_crush.serving.observability.part import Observability
    from glm_crush.serving.websocket.part import WebSocketPart

    def grpc_ready(port: int) -> None:
        print_lines([labelled("gRPC", f"{settings.api.host}:{port}")])

    observability = Observability(models, settings.observability)
    parts: list[ServerPart] = [
        observability,
        WebSocketPart(models),
        GuardPart(models, settings.guard, observe=observability.count_finding),
        McpPart(models, max_body_bytes=settings.api.max_body_bytes),
        GraphqlPart(models, settings.graphql, ping_interval_seconds=settings.api.ping_interval_seconds),
    ]
    if settings.cache.enabled:
        from glm_crush.serving.response_cache.part import ResponseCache

        parts.append(ResponseCache(models, settings.cache, database))
    if settings.api.grpc_port is not None:
        from glm_crush.serving.grpc.part import GrpcPart

        parts.append(GrpcPart(models, settings.api, settings.gateway, settings.api.grpc_port, on_ready=grpc_ready))
    return parts
