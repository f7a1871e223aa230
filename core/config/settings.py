"""Every setting of the worker: name, default, unit and meaning.

Settings are environment variables. They are also read from a file `.env` in the current folder.
Booleans are `1` or `0` (`true` and `false` work too). White space at the ends of a value is
dropped. An empty value counts as unset.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from core.config.environment import DOTENV, trimmed_variables
from core.config.values import (
    REQUEST_ID,
    FileMode,
    FilePath,
    LogFormat,
    LogLevel,
    NamePrefix,
    NamePrefixes,
    Number,
    QueueName,
    RedisUrl,
    ResultQueue,
    Uids,
    UseCuda,
)
from core.keys import Kind

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent.parent

#: Longest time to live, in seconds: Redis refuses a PEXPIRE that overflows 64 bits.
YEAR_S = 366 * 86_400

#: Upper limit of MAX_MESSAGE_BYTES: a dead entry is up to twice as long, and Redis limits a string
#: to 512 MB.
LONGEST_MESSAGE = 64 << 20


#: Number of ports that are tried if ADMIN_PORT is not set.
ADMIN_PORTS_TRIED = 100


class Delivery(StrEnum):
    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


@dataclass(frozen=True, slots=True)
class WireFormat:
    """The settings that the format of messages depends on.

    `max_message_bytes` and `max_image_pixels` limit a message and a picture. `input_prefixes` begin
    the names of input segments, `result_prefix` those of result segments.
    """

    max_message_bytes: int
    max_image_pixels: int
    input_prefixes: tuple[str, ...]
    result_prefix: str


class Settings(BaseSettings):
    """The validated settings. A field is the environment variable of its name in upper case."""

    model_config = SettingsConfigDict(
        env_file=DOTENV, env_ignore_empty=True, extra="ignore", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):  # the one for .env is derived from it
                source.env_vars = trimmed_variables(source.env_vars)
        return init_settings, env_settings, dotenv_settings

    # Redis: where jobs come from and results go.
    redis_url: RedisUrl = Field(
        "redis://localhost:6379",
        description="URL of the Redis server or Valkey: redis://, rediss:// (TLS), unix:// or "
        "redis+sentinel://; special characters of a password are percent-encoded",
    )
    lama_inference_long_tasks_queue: QueueName = Field(
        "lama_inference:longtasks",
        description="Redis list with the jobs for long pictures; {host} is replaced by the "
        "host's name",
    )
    lama_inference_short_tasks_queue: QueueName = Field(
        "lama_inference:shorttasks",
        description="Redis list with the jobs for short pictures; {host} is replaced by the "
        "host's name",
    )
    result_queue: ResultQueue = Field(
        "",
        description="Redis list to which the outcome of each job is pushed; {request_id} gives "
        "each request a list of its own, {host} is replaced by the host's name; none if unset",
    )
    result_queue_max: int = Field(
        100_000,
        ge=1,
        le=2**31,
        description="maximum number of outcomes in a result queue; the oldest are dropped",
    )
    delivery: Delivery = Field(
        Delivery.AT_LEAST_ONCE,
        description="at_least_once, or at_most_once: a plain BLPOP, so that a crash loses the "
        "jobs that are computed or read ahead",
    )

    # Batches.
    inpainting_batch_size_long: int = Field(
        4, ge=1, le=64, description="maximum number of long pictures in a batch"
    )
    inpainting_batch_size_short: int = Field(
        4, ge=1, le=64, description="maximum number of short pictures in a batch"
    )
    batch_max_wait_ms: Number = Field(
        10,
        ge=0,
        le=60_000,
        description="maximum time in milliseconds that a batch waits for more jobs",
    )

    # The network.
    lama_config_path: FilePath | None = Field(
        None,
        description="training config that the checkpoint must agree with; none is needed",
    )
    lama_checkpoint_path: FilePath = Field(
        PROJECT_ROOT / "lama-fourier/models/best.ckpt",
        description="checkpoint with the weights of the network",
    )
    use_cuda: UseCuda = Field(
        True,
        description="use the GPU if there is one; with require, the worker does not start without "
        "one",
    )
    use_fp16: bool = Field(
        True, description="use half precision where it is faster: fp16 on a GPU, bf16 on some CPUs"
    )
    inference_timeout_s: Number = Field(
        120, gt=0, description="seconds after which a batch counts as hung and the process exits"
    )

    inpaint_region: Literal["full", "content", "mask"] = Field(
        "full",
        description="part of the canvas that goes through the network: full (all of it), "
        "content (without the padding) or mask (windows around the holes)",
    )

    refine: bool = Field(
        False,
        description="refine holes that can contain a circle of 96 pixels, at several scales; "
        "many times slower",
    )

    # Holes, and the pixels outside them.
    mask_threshold: int = Field(
        0, ge=0, le=254, description="mask value above which a pixel is a hole, 0 to 254"
    )
    composite_original: bool = Field(
        True,
        description="take the pixels outside the hole from original_shm_info, if the message "
        "has it; original_mask_shm_info, if the message has it, says where the hole is",
    )
    max_image_pixels: int = Field(
        16_777_216,
        ge=1,
        le=2**30,
        description="maximum number of pixels (width × height) of a picture; from 1 Mpx on, a side "
        "counts as at least 16 pixels",
    )

    # Shared memory.
    shm_name_prefix: NamePrefix = Field(
        "img_shm_", description="prefix of the names of result segments"
    )
    shm_input_prefixes: NamePrefixes = Field(
        ("img_shm_", "mask_shm_", "psm_"),
        min_length=1,
        description="allowed prefixes of the names of input segments, separated by commas",
    )
    shm_file_mode: FileMode = Field(
        0o600, ge=0o400, le=0o777, description="file mode of result segments, in octal"
    )
    shm_allowed_uids: Uids = Field(
        (),
        description="other uids whose input segments are accepted, separated by commas; the "
        "worker's own uid always is",
    )

    # Failures.
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="number of attempts after which a failing job goes to the dead-letter list",
    )
    retry_delay_s: Number = Field(
        1,
        ge=0,
        le=3600,
        description="seconds before the second attempt; the delay doubles with each further "
        "attempt",
    )
    retry_delay_max_s: Number = Field(
        60, ge=0, le=3600, description="maximum delay before another attempt, in seconds"
    )
    max_message_bytes: int = Field(
        1_048_576, ge=1024, le=LONGEST_MESSAGE, description="maximum size of a message in bytes"
    )
    result_ttl_s: Number = Field(
        86_400, gt=0, le=YEAR_S,
        description="seconds after which a result that was not fetched is removed",
    )  # fmt: skip
    dead_ttl_s: Number = Field(
        604_800, gt=0, le=YEAR_S,
        description="seconds for which the inputs of a dead job are kept for a retry",
    )  # fmt: skip

    # Liveness and recovery.
    heartbeat_interval_s: Number = Field(5, gt=0, description="seconds between two heartbeats")
    heartbeat_ttl_s: Number = Field(
        15, gt=0, description="seconds without a heartbeat after which a worker counts as dead"
    )
    reap_interval_s: Number = Field(
        10,
        gt=0,
        description="seconds between two searches for jobs and segments that dead workers left",
    )
    orphan_after_s: Number = Field(
        600, gt=0,
        description="seconds without a living worker after which the jobs of a namespace are "
        "returned to their queues",
    )  # fmt: skip
    shutdown_grace_s: Number = Field(
        30, ge=0, description="seconds that a stopping worker has to finish the current batch"
    )

    # Logs and the admin port.
    log_level: LogLevel = Field(
        "INFO", description="lowest level that is logged: DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    log_format: LogFormat = Field(
        "text", description="text, or json: one JSON object per line, with the request's id"
    )
    admin_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address that the admin port listens on: 127.0.0.1 for this host only, or "
        "0.0.0.0 for all networks (the image sets it)",
    )
    admin_port: int = Field(
        5262,  # LAMA on the keypad of a telephone; Prometheus' exporters have 9090 to 9999
        ge=0,
        le=65_535,
        description="port of the metrics, health checks and status page; 0 turns it off; if it is "
        "not set, the next free port is used",
    )
    admin_token: str = Field(
        "",
        repr=False,
        description="password for changes on the status page; without it, nothing can be "
        "changed there",
    )
    status_previews: bool = Field(
        False, description="show the latest pictures, before and after, on the status page"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.lama_inference_long_tasks_queue == self.lama_inference_short_tasks_queue:
            raise ValueError(
                "LAMA_INFERENCE_LONG_TASKS_QUEUE and LAMA_INFERENCE_SHORT_TASKS_QUEUE are both "
                f"{self.lama_inference_long_tasks_queue!r}: they must be two different lists"
            )
        pattern = re.escape(self.result_queue).replace(re.escape(REQUEST_ID), ".*")
        for kind in Kind:
            if re.fullmatch(pattern, self.queue(kind), re.DOTALL):
                raise ValueError(
                    f"RESULT_QUEUE {self.result_queue!r} can name the queue of {kind} jobs, "
                    f"{self.queue(kind)!r}: it must be another list"
                )
        if self.heartbeat_ttl_s < 2 * self.heartbeat_interval_s:
            raise ValueError(
                f"HEARTBEAT_TTL_S={self.heartbeat_ttl_s:g} is less than twice "
                f"HEARTBEAT_INTERVAL_S={self.heartbeat_interval_s:g}: one late heartbeat would "
                "make the worker count as dead"
            )
        return self

    @property
    def result_ttl_ms(self) -> int:
        """RESULT_TTL_S in milliseconds, as Redis takes it; at least one."""
        return max(1, int(self.result_ttl_s * 1000))

    @property
    def wire_format(self) -> WireFormat:
        """What the format of messages depends on."""
        return WireFormat(
            max_message_bytes=self.max_message_bytes,
            max_image_pixels=self.max_image_pixels,
            input_prefixes=self.shm_input_prefixes,
            result_prefix=self.shm_name_prefix,
        )

    @property
    def queues(self) -> dict[Kind, str]:
        """The Redis list of each kind's jobs."""
        return {
            Kind.LONG: self.lama_inference_long_tasks_queue,
            Kind.SHORT: self.lama_inference_short_tasks_queue,
        }

    def queue(self, kind: Kind) -> str:
        """The Redis list that jobs of this kind come from."""
        return self.queues[kind]

    @property
    def uids(self) -> frozenset[int]:
        """The owners whose segments the worker may read and unlink."""
        return frozenset((os.geteuid(), *self.shm_allowed_uids))

    @property
    def admin_ports(self) -> range:
        """Where the admin port may be: the port that was set, or the default and those after it."""
        tried = 1 if "admin_port" in self.model_fields_set else ADMIN_PORTS_TRIED
        return range(self.admin_port, min(self.admin_port + tried, 65_536))

    @property
    def batch_sizes(self) -> dict[Kind, int]:
        """The largest number of jobs of each kind in one batch."""
        return {
            Kind.LONG: self.inpainting_batch_size_long,
            Kind.SHORT: self.inpainting_batch_size_short,
        }
