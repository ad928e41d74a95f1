"""Every error that SliceMQ raises on purpose, and the exit code that each ends a program with.

    SliceMQError                        1
    ├── UsageError                      2   wrong arguments
    ├── ConfigError                     3   a configuration file, a variable or a fleet file
    ├── MissingDependencyError          4   an extra is not installed
    ├── ModelError                     10   not a TFLite model, or a damaged one
    │   ├── UnsupportedOperatorError   11   the runtime lacks an operator
    │   ├── CutError                   12   a cut that does not exist or is not possible
    │   └── VerificationError          13   the chain of slices does not equal the whole
    ├── PlanError                      20   no plan can be made, or a plan file is wrong
    │   ├── InsufficientCapacityError  21   the cluster has not enough memory
    │   ├── PlanCheckError             22   a plan says what its costs file does not bear out
    │   └── UncheckedPlanError         23   there is no costs file to check a plan against
    ├── BrokerError                    30   no broker, or it refused
    │   ├── BrokerRefusedError         31   bad credentials, not authorised
    │   └── OversizeError              32   the broker does not carry messages of this size
    ├── CoordinatorError               40   the coordinator did not answer
    │   ├── RequestRefusedError        41   it answered: no
    │   ├── RolledBackError            42   a rollout failed: what ran before serves on
    │   └── SupersededError            43   a newer rollout took this one's place
    ├── ProtocolError                  50   a document that is not what the contract says
    │   ├── VersionError               51   a document of another protocol version
    │   ├── FrameError                 52   a frame whose bytes do not hold together
    │   └── ArtifactError              53   an artifact that does not match its hash
    ├── InputError                     60   a tensor of the wrong name, shape or dtype
    ├── PipelineError                  61   no such pipeline, or it is not running
    ├── FrameFailedError               62   a frame ended without a result (its `reason` says why)
    │   ├── StreamReset                63   the state that it needs is gone; the next frame begins anew
    │   └── StreamBusy                 64   another client has the stream of this stateful pipeline
    ├── RuntimeUnavailableError        70   no TFLite runtime is installed
    ├── DuplicateNodeError             71   two nodes, or ingresses, with one id
    ├── StoreError                     72   a full disk, a folder that cannot be written
    └── InvariantError                 80   a simulated run broke a promise

The numbers are stable: a code that falls out of use is not given to another error.
"""

from __future__ import annotations

STREAM_RESET = "stream-reset"
POISONED = "poisoned"
STREAM_BUSY = "stream-busy"
POISONED = "poisoned"


class SliceMQError(Exception):
    """The root of all errors that SliceMQ raises on purpose; its text is written for the operator."""

    exit_code = 1


class UsageError(SliceMQError):
    """Arguments that do not fit together."""

    exit_code = 2


class ConfigError(SliceMQError):
    """A configuration or fleet file (or environment variable) with a wrong or missing field."""

    exit_code = 3


class MissingDependencyError(SliceMQError):
    """A package of an extra that is not installed; the text names the extra."""

    exit_code = 4


class ModelError(SliceMQError):
    """A file that is not a TFLite model, or a damaged or unusable one."""

    exit_code = 10


class UnsupportedOperatorError(ModelError):
    """An operator that the runtime lacks; the text names it."""

    exit_code = 11


class CutError(ModelError):
    """A cut that does not exist in the model, or that cannot be made."""

    exit_code = 12


class VerificationError(ModelError):
    """The chain of slices does not give what the whole model gives."""

    exit_code = 13


class PlanError(SliceMQError):
    """No plan can be made, or a plan file is wrong."""

    exit_code = 20


class InsufficientCapacityError(PlanError):
    """The nodes have not enough memory (or cannot run some operator) for the model."""

    exit_code = 21


class PlanCheckError(PlanError):
    """A plan says what its costs file does not bear out."""

    exit_code = 22


class UncheckedPlanError(PlanError):
    """There is no costs file to check a plan against."""

    exit_code = 23


class BrokerError(SliceMQError):
    """The broker cannot be reached."""

    exit_code = 30


class BrokerRefusedError(BrokerError):
    """The broker answered and refused the connection."""

    exit_code = 31


class OversizeError(BrokerError):
    """The broker does not carry messages as large as the largest bundle."""

    exit_code = 32


class CoordinatorError(SliceMQError):
    """No coordinator answered in time."""

    exit_code = 40


class RequestRefusedError(CoordinatorError):
    """The coordinator answered that it will not do what was asked."""

    exit_code = 41


class RolledBackError(CoordinatorError):
    """A rollout was rolled back: what ran before serves on; the text says why."""

    exit_code = 42


class SupersededError(CoordinatorError):
    """A newer rollout of the same pipeline took this one's place."""

    exit_code = 43


class ProtocolError(SliceMQError):
    """A topic or document that is not what the contract says."""

    exit_code = 50


class VersionError(ProtocolError):
    """A document of another major protocol version."""

    exit_code = 51


class FrameError(ProtocolError):
    """A frame whose lengths, types or header do not hold together."""

    exit_code = 52


class ArtifactError(ProtocolError):
    """Bytes that do not match the SHA-256 under which they were asked for."""

    exit_code = 53


class InputError(SliceMQError):
    """A tensor whose name, shape or dtype is not what the model takes."""

    exit_code = 60


class PipelineError(SliceMQError):
    """The pipeline does not exist, or does not run."""

    exit_code = 61


class FrameFailedError(SliceMQError):
    """A frame ended without a result.

    `reason` is one of the words of the contract: `gave-up`, `spec-changed`, `poisoned`, `slice-error`,
    `removed`, `closed`, `unsendable`, `stream-reset`, `stream-busy`. `sequence` is the frame's number where it is
    known.
    """

    exit_code = 62

    def __init__(self, reason: str, message: str = "", sequence: int | None = None) -> None:
        where = "" if sequence is None else f"frame {sequence}: "
        super().__init__(f"{where}{reason}: {message}" if message else f"{where}{reason}")
        self.reason = reason
        self.sequence = sequence


class StreamReset(FrameFailedError):  # noqa: N818 - the protocol's word
    """The state that the frame needs is gone; the next frame begins with the model's initial one."""

    exit_code = 63


class StreamBusy(FrameFailedError):  # noqa: N818 - the protocol's word
    """Another client has the stream of this stateful pipeline; the message names it."""

    exit_code = 64


def frame_failed(reason: str, message: str = "", sequence: int | None = None) -> FrameFailedError:
    """The exception for a frame that ended with `reason`."""
    kind = {STREAM_RESET: StreamReset, STREAM_BUSY: StreamBusy}.get(reason, FrameFailedError)
    return kind(reason, message, sequence)


class RuntimeUnavailableError(SliceMQError):
    """No TFLite runtime is installed."""

    exit_code = 70


class DuplicateNodeError(SliceMQError):
    """Another live node, or ingress, uses this one's id."""

    exit_code = 71


class StoreError(SliceMQError):
    """A file or folder of the store or cache cannot be read or written (a full disk among the causes)."""

    exit_code = 72


class InvariantError(SliceMQError):
    """A run of the simulator in which something did not hold that SliceMQ promises."""

    exit_code = 80
