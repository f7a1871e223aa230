"""The inference engine: the generator's arithmetic, arranged for the hardware.

It is made from a loaded `FFCResNetGenerator`, which stays as it is and is the measure of
correctness. A picture walks

    engine.py    bytes in, bytes out; float32 again where half precision overflowed
    transfers.py to a GPU and back, while it computes others
    pixels.py    what is done to the bytes there: masked, restored, channels turned around
    replay.py    a GPU's hundreds of small steps, recorded once per size
    network.py   encoder, residual blocks, decoder
    fused.py     the same for a GPU, with one kernel between any two convolutions
    kernels.py   these kernels; their source is in sources.py, their compiler in nvrtc.py
    arrangements.py  convolutions over several pixels at once
    fourier.py   the Fourier unit, two ways; which one is measured
    layers.py    convolutions with bias, sum and ReLU in one go
    folding.py   batch norms into the weights in front of them
    rounding.py  weights in half precision, with errors that cancel out
    precision.py whether half precision is faster on this machine
    windows.py   which parts of the decoder reach the hole
    turns.py     one thread at a time, the longest waiting first

Inside, a feature map is B×C×H×W in channels-last layout: a pixel's channels lie side by side, as
matrix products want them.
"""

from .engine import Engine

__all__ = ["Engine"]
