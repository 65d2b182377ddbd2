"""Every error that the agent raises on purpose.

OverlaidError
├── ConfigError            the configuration file or environment
├── UsageError             wrong arguments of a command
├── TrustError             who said it, to whom, when
│   ├── BadSignature
│   ├── UnknownKey
│   ├── Expired
│   ├── Replayed
│   ├── WrongTarget
│   └── RepositoryError    metadata of the TUF repository: what may be installed
│       ├── RootMissing        this node was never told whom to trust
│       ├── MetadataExpired    nobody renewed it, or somebody keeps the new from this node (freeze)
│       ├── MetadataRollback   older than what this node has seen
│       ├── MetadataMismatch   not the files that belong together (mix-and-match)
│       ├── MetadataTooLarge   more bytes than any such file may have (endless data)
│       ├── WrongKeys          too few signatures of the keys that may sign it
│       ├── MetadataDamaged    no metadata at all
│       ├── MetadataMissing    the repository does not have a file that its metadata names
│       └── UnknownTarget      nobody who may sign for this model signed this package (arbitrary target)
├── MessageError           a payload from the wire or the control socket that does not parse
├── PackageError           what is delivered
│   ├── ManifestError
│   ├── BlockError         wrong digest or size
│   ├── BlockMissing       the server does not have it
│   └── StoreError         disk full, file lost, unwritable
├── PrepareError           a trained model, or the data beside it, that cannot become a package
│   ├── UnsupportedOperator  a target does not run it
│   ├── CustomDomain       operators of a domain that no runtime here knows
│   ├── UnsupportedOpset
│   ├── DynamicShape       a size other than the batch is open
│   ├── WeightsNotFinite   NaN or infinity among the weights
│   ├── ModelTooLarge
│   └── DatasetError       calibration or evaluation data that do not fit the model
├── DeviceError            what runs models
│   ├── RuntimeUnavailable
│   ├── ModelLoadError     corrupt or foreign model file
│   │   ├── UnsupportedModel   nothing of it can run on an overlay
│   │   └── ProgramError       corrupt overlay program, or one for another overlay
│   ├── TensorError        name, type or shape does not fit
│   ├── InferenceError
│   ├── DeviceMismatch     the device that ran is not the one that was chosen
│   ├── DeviceLost         it was there and answers no more
│   ├── OutOfDeviceMemory  the memory that a device may use does not hold the model or its tensors
│   ├── KernelBuildFailed  an OpenCL driver does not compile the kernels, or not take their binary
│   ├── OverlayLoadError   the FPGA does not take the bitstream
│   ├── OverlayFault       the overlay ended with an error status
│   ├── OverlayTaken       another process ran on the overlay: what was on the chip is gone
│   ├── OverlayHung        the overlay did not end
│   ├── DmaTimeout         a transfer to or from the device did not end
│   └── MeterError         a power sensor that cannot be read
├── PlacementError
│   └── NoFeasibleCandidate
├── DeployError
│   ├── GoldenMismatch
│   ├── PhaseTimeout
│   ├── SoakFailed
│   ├── TooSlow            a fresh worker is much slower than what was measured
│   ├── Canceled
│   └── Superseded
├── WorkerError            a worker process
│   ├── WorkerCrashed
│   └── WorkerTimeout
├── LinkError              the broker
├── ServiceError           the systemd service: installing it, removing it
├── TelemetryError         a telemetry database that cannot be read
└── ControlError           the local control socket
    └── DaemonNotRunning

The text of an error says what is wrong and what to do next; it never holds a secret.
"""

import signal


class OverlaidError(Exception):
    """Root of the tree: ``str(error)`` is for people, ``error.name`` for machines."""

    @property
    def name(self) -> str:
        """The class name, as it appears on the wire and in telemetry."""
        return type(self).__name__

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.name


class ConfigError(OverlaidError): ...


class UsageError(OverlaidError): ...


class TrustError(OverlaidError): ...


class BadSignature(TrustError): ...


class UnknownKey(TrustError): ...


class Expired(TrustError): ...


class Replayed(TrustError): ...


class WrongTarget(TrustError): ...


class RepositoryError(TrustError): ...


class RootMissing(RepositoryError): ...


class MetadataExpired(RepositoryError): ...


class MetadataRollback(RepositoryError): ...


class MetadataMismatch(RepositoryError): ...


class MetadataTooLarge(RepositoryError): ...


class WrongKeys(RepositoryError): ...


class MetadataDamaged(RepositoryError): ...


class MetadataMissing(RepositoryError): ...


class UnknownTarget(RepositoryError): ...


class MessageError(OverlaidError): ...


class PackageError(OverlaidError): ...


class ManifestError(PackageError): ...


class BlockError(PackageError): ...


class BlockMissing(PackageError): ...


class StoreError(PackageError): ...


class PrepareError(OverlaidError): ...


class UnsupportedOperator(PrepareError): ...


class CustomDomain(PrepareError): ...


class UnsupportedOpset(PrepareError): ...


class DynamicShape(PrepareError): ...


class WeightsNotFinite(PrepareError): ...


class ModelTooLarge(PrepareError): ...


class DatasetError(PrepareError): ...


class DeviceError(OverlaidError): ...


class RuntimeUnavailable(DeviceError): ...


class ModelLoadError(DeviceError): ...


class UnsupportedModel(ModelLoadError): ...


class ProgramError(ModelLoadError): ...


class TensorError(DeviceError): ...


class InferenceError(DeviceError): ...


class DeviceMismatch(DeviceError): ...


class DeviceLost(DeviceError): ...


class OutOfDeviceMemory(DeviceError): ...


class KernelBuildFailed(DeviceError): ...


class OverlayLoadError(DeviceError): ...


class OverlayFault(DeviceError): ...


class OverlayTaken(DeviceError): ...


class OverlayHung(DeviceError): ...


class DmaTimeout(DeviceError): ...


class MeterError(DeviceError): ...


class PlacementError(OverlaidError): ...


class NoFeasibleCandidate(PlacementError): ...


class DeployError(OverlaidError): ...


class GoldenMismatch(DeployError): ...


class PhaseTimeout(DeployError): ...


class SoakFailed(DeployError): ...


class TooSlow(DeployError): ...


class Canceled(DeployError): ...


class Superseded(DeployError): ...


class WorkerError(OverlaidError): ...


class WorkerCrashed(WorkerError): ...


class WorkerTimeout(WorkerError): ...


class LinkError(OverlaidError): ...


class ServiceError(OverlaidError): ...


class TelemetryError(OverlaidError): ...


class ControlError(OverlaidError): ...


class DaemonNotRunning(ControlError): ...


def from_name(name: str, text: str) -> OverlaidError:
    """Rebuild an error that crossed a process boundary as (name, text); an unknown name gives the root."""
    cls = globals().get(name)
    if isinstance(cls, type) and issubclass(cls, OverlaidError):
        return cls(text)
    return OverlaidError(f"{name}: {text}")


def one_line(error: BaseException) -> str:
    """An error as one line of at most 500 printable characters, for reasons that are stored, sent or shown."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text[:497] + "..." if len(text) > 500 else text
    # What strangers wrote may be in it: lone surrogates cannot be sent on, others rewrite what a terminal shows.
    return "".join(character if character.isprintable() else "?" for character in text)


def signal_name(number: int) -> str:
    """What a process was ended by, for texts: "SIGSEGV", or "signal 40" (most of the real-time ones have no name)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
