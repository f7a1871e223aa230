"""The source of the kernels, in CUDA's C++; `kernels` and `ends` describe what they do."""

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
    Map given, Map odd, Map plus, Map onto, Map out, const float* bias,
    int height, int width, int groups, int rows, int columns, int left, int top, int side
) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    int x = index / groups, group = index - x * groups;
    if (x >= columns) return;
    int b = blockIdx.z, from_x = reflected(x - left, width);
    for (int y = blockIdx.y; y < rows; y += gridDim.y) {
        int from_y = reflected(y - top, height);
        float sums[LENGTH];
        for (int i = 0; i < LENGTH; i++) sums[i] = bias ? bias[group * LENGTH + i] : 0.f;
        int in_pair = (from_x & 1) * groups + group;
        if (!odd.data) add(sums, given, b, from_y, from_x, group);
        else if (from_y & 1) add(sums, odd, b, from_y >> 1, from_x >> 1, in_pair);
        else add(sums, given, b, from_y >> 1, from_x >> 1, in_pair);
        if (plus.data) add(sums, plus, b, from_y, from_x, group);
        // NaN is not below 0, and stays.
        for (int i = 0; i < LENGTH; i++) sums[i] = sums[i] < 0.f ? 0.f : sums[i];
        if (onto.data) add(sums, onto, b, from_y, from_x, group);
        Group result;
        for (int i = 0; i < LENGTH; i++) result.numbers[i] = number(sums[i]);
        int part = (y % side) * side + x % side;
        *out.at(b, y / side, x / side, part * groups + group) = result;
    }
}

struct Pixel { unsigned char channels[4]; };
struct alignas(4 * sizeof(Number)) Input { Number channels[4]; };

extern "C" __global__ void begin(
    const Pixel* pixels, Input* out,
    int height, int width, int rows, int columns, int left, int top
) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.z;
    if (x >= columns) return;
    int from_x = reflected(x - left, width);
    for (int y = blockIdx.y; y < rows; y += gridDim.y) {
        int from_y = reflected(y - top, height);
        Pixel pixel = pixels[((long long)b * height + from_y) * width + from_x];
        Input input;
        for (int i = 0; i < 4; i++) input.channels[i] = number(pixel.channels[i] * (1.f / 256.f));
        out[((long long)b * rows + y) * columns + x] = input;
    }
}

extern "C" __global__ void end(
    const Number* blocks, const float* bias, const Pixel* pixels,
    unsigned char* filled, bool* finite, int height, int width, int side
) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.z;
    if (x >= width) return;
    for (int y = blockIdx.y; y < height; y += gridDim.y) {
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
}
"""

#: What `ends` describes.
ENDS = r"""
typedef unsigned char Byte;

struct Place {
    const Byte* picture; long long picture_row, picture_pixel;
    const Byte* mask; long long mask_row, mask_pixel;
    Byte* result; long long rows, columns;
    Byte* flag;
    long long threshold, top, left, height, width, is_bgr;
};

struct alignas(4) Pixel { Byte channels[4]; };

extern "C" __global__ void gather(const Place* places, Pixel* pixels, int height, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.z;
    if (x >= width) return;
    const Place& place = places[b];
    for (int y = blockIdx.y; y < height; y += gridDim.y) {
        const Byte* colours = place.picture + y * place.picture_row + x * place.picture_pixel;
        bool hole = place.mask[y * place.mask_row + x * place.mask_pixel] > place.threshold;
        Pixel pixel;
        for (int i = 0; i < 3; i++) pixel.channels[i] = hole ? 0 : colours[i];
        pixel.channels[3] = hole ? 255 : 0;
        pixels[((long long)b * height + y) * width + x] = pixel;
    }
}

// Where a pixel of a resized line lies between two of the line.
struct Between {
    int first, second;
    float share;

    __device__ Between(int place, long long wanted, long long length) {
        float at = ((float)length / (float)wanted) * (place + 0.5f) - 0.5f;
        at = at < 0.f ? 0.f : at;
        first = (int)at;
        first = first < length ? first : (int)length - 1;
        second = first + (first + 1 < length);
        share = at - first;
    }
};

extern "C" __global__ void restore(
    const Place* places, const Byte* filled, const bool* finite, int height, int width
) {
    int b = blockIdx.z;
    const Place& place = places[b];
    const Byte* kept = filled + (((long long)b * height + place.top) * width + place.left) * 3;
    long long row = (long long)width * 3;
    long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long step = (long long)gridDim.x * blockDim.x;
    if (!first) *place.flag = finite[b];
    bool is_resized = place.rows != place.height || place.columns != place.width;
    for (long long i = first; i < place.rows * place.columns; i += step) {
        int y = (int)(i / place.columns), x = (int)(i - y * place.columns);
        Byte* result = place.result + 3 * i;
        Between down(y, place.rows, place.height), right(x, place.columns, place.width);
        for (int c = 0; c < 3; c++) {
            Byte found;
            if (is_resized) {
                const Byte* above = kept + down.first * row + c;
                const Byte* below = kept + down.second * row + c;
                int one = 3 * right.first, other = 3 * right.second;
                float share = right.share, rest = 1.f - share;
                float top = rest * above[one] + share * above[other];
                float bottom = rest * below[one] + share * below[other];
                found = (Byte)rintf((1.f - down.share) * top + down.share * bottom);
            } else found = kept[y * row + 3 * x + c];
            result[place.is_bgr ? 2 - c : c] = found;
        }
    }
}
"""


def source(dtype: torch.dtype) -> str:
    """The source for maps of a dtype: float16, bfloat16 or float32."""
    return _TYPES[dtype] + _KERNELS
