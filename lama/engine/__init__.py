"""The inference engine: the generator's arithmetic, arranged for the hardware.

It is made from a loaded `FFCResNetGenerator`, which is not changed and defines the right result.
The modules, in the order in which a picture meets them:

    engine.py    bytes in, bytes out; float32 where half precision overflowed
    transfers.py copies to a GPU and back, while it computes other pictures
    ends.py      masking and restoring of pictures on the device, recorded with the network
    pixels.py    the same in torch's operations
    replay.py    records a GPU's hundreds of small steps once per size
    network.py   encoder, residual blocks, decoder
    fused.py     the same for a GPU, with one kernel between two convolutions
    kernels.py   these kernels; their source is in sources.py, their compiler in nvrtc.py
    arrangements.py  convolutions over several pixels at once
    fourier.py   two implementations of the Fourier unit; the faster one is measured
    layers.py    convolutions with bias, sum and ReLU in one go
    folding.py   folds batch norms into the weights in front of them
    rounding.py  rounds weights to half precision so that errors cancel out
    precision.py decides whether half precision is faster on this machine
    windows.py   the windows of the decoder that contain the hole
    turns.py     a lock that threads get in the order of their arrival

Inside, a feature map is B×C×H×W in channels-last layout: a pixel's channels are contiguous, as
matrix products need them.
"""

from .engine import Engine

__all__ = ["Engine"]
