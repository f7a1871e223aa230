"""The source of the kernels, in CUDA's C++; `kernels` describes what they do."""

from __future__ import annotations

import torch

#: Functions that read and write a number, and a group of numbers.
_TYPES = {
    torch.float16: r"""
typedef unsigned short Number;
#define LENGTH 8
__device__ float value(Number bits) {
    float found;
    asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(bits));
    return found;
}
__device__ Number number(float value) {
    Number bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
""",
    # By whole numbers: older devices have no instruction for it.
    torch.bfloat16: r"""
typedef unsigned short Number;
#define LENGTH 8
__device__ float value(Number bits) { return __uint_as_float((unsigned)bits << 16); }
__device__ Number number(float value) {
    unsigned bits = __float_as_uint(value);
    // To the nearest, and to the even one of two; NaN must not become infinite.
    return value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
""",
    torch.float32: r"""
typedef float Number;
#define LENGTH 4
__device__ float value(Number number) { return number; }
__device__ Number number(float value) { return value; }
""",
}

_KERNELS = r"""
struct alignas(16) Group { Number numbers[LENGTH]; };

struct Map {
    Group* data;
    long long image, row, pixel;

    __device__ Group* at(int b, int y, int x, int group) const {
        return data + b * image + y * row + x * pixel + group;
    }
};

__device__ int reflected(int i, int size) {
    i = i < 0 ? -i : i;
    return i < size ? i : 2 * size - 2 - i;
}

__device__ void add(float* sums, const Map& map, int b, int y, int x, int group) {
    Group found = *map.at(b, y, x, group);
    for (int i = 0; i < LENGTH; i++) sums[i] += value(found.numbers[i]);
}

extern "C" __global__ void finish(
    Map given, Map plus, Map onto, Map out, const float* bias,
    int height, int width, int groups, int columns, int left, int top, int side
) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    int x = index / groups, group = index - x * groups;
    if (x >= columns) return;
    int y = blockIdx.y, b = blockIdx.z;
    int from_x = reflected(x - left, width), from_y = reflected(y - top, height);
    float sums[LENGTH];
    for (int i = 0; i < LENGTH; i++) sums[i] = bias ? bias[group * LENGTH + i] : 0.f;
    add(sums, given, b, from_y, from_x, group);
    if (plus.data) add(sums, plus, b, from_y, from_x, group);
    // NaN is not below 0, and stays.
    for (int i = 0; i < LENGTH; i++) sums[i] = sums[i] < 0.f ? 0.f : sums[i];
    if (onto.data) add(sums, onto, b, from_y, from_x, group);
    Group result;
    for (int i = 0; i < LENGTH; i++) result.numbers[i] = number(sums[i]);
    int part = (y % side) * side + x % side;
    *out.at(b, y / side, x / side, part * groups + group) = result;
}

struct Pixel { unsigned char channels[4]; };
struct alignas(4 * sizeof(Number)) Input { Number channels[4]; };

extern "C" __global__ void begin(
    const Pixel* pixels, Input* out,
    int height, int width, int rows, int columns, int left, int top
) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, b = blockIdx.z;
    if (x >= columns) return;
    int from_x = reflected(x - left, width), from_y = reflected(y - top, height);
    Pixel pixel = pixels[((long long)b * height + from_y) * width + from_x];
    Input input;
    for (int i = 0; i < 4; i++) input.channels[i] = number(pixel.channels[i] * (1.f / 256.f));
    out[((long long)b * rows + y) * columns + x] = input;
}

extern "C" __global__ void end(
    const Number* blocks, const float* bias, const Pixel* pixels,
    unsigned char* filled, bool* finite, int height, int width, int side
) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, b = blockIdx.z;
    if (x >= width) return;
    long long place = ((long long)b * height + y) * width + x;
    Pixel pixel = pixels[place];
    long long block = ((long long)b * (height / side) + y / side) * (width / side) + x / side;
    const Number* logits = blocks + ((block * side + y % side) * side + x % side) * 3;
    for (int i = 0; i < 3; i++) {
        float logit = value(logits[i]) + bias[i];
        if (!(fabsf(logit) <= 3.4e38f)) finite[b] = false;
        float fill = rintf(255.f / (1.f + expf(-logit)));
        filled[3 * place + i] = pixel.channels[3] ? (unsigned char)fill : pixel.channels[i];
    }
}
"""


def source(dtype: torch.dtype) -> str:
    """The source for maps of a dtype: float16, bfloat16 or float32."""
    return _TYPES[dtype] + _KERNELS
