package dev.slmkit.sample.core

import kotlin.math.exp
import kotlinx.serialization.Serializable

/** How tokens are picked: greedily, or as a model's author did it. */
@Serializable
class Generation(
    val doSample: Boolean = false,
    val temperature: Double = 1.0,
    val topK: Int = 0, // 0: all
    val topP: Double = 1.0,
    val repetitionPenalty: Float = 1f,
)

/** Penalty, then the best token, or temperature, top-k and top-p, with the random numbers of Python and Swift. */
class Sampler(private val how: Generation = Generation(), seed: Long = 0) {
    private var state = (seed xor -0x61c8864680b583ebL).let { if (it == 0L) 1L else it }

    /** A token id. ``before``: the sequence so far, for the penalty, which changes the logits. */
    fun next(logits: FloatArray, before: Set<Int>): Int {
        val penalty = how.repetitionPenalty
        for (id in before) logits[id] = if (logits[id] < 0) logits[id] * penalty else logits[id] / penalty
        if (!how.doSample || how.temperature == 0.0) return logits.indices.maxBy { logits[it] }
        val order = best(logits, if (how.topK == 0) logits.size else how.topK)
        val scaled = { at: Int -> logits[order[at]] / how.temperature }
        val weights = DoubleArray(order.size) { exp(scaled(it) - scaled(0)) }
        val enough = how.topP * weights.sum()
        var mass = 0.0
        var kept = 0
        while (kept < order.size && (kept == 0 || mass < enough)) mass += weights[kept++]
        var left = draw() / 16777216.0 * mass
        for (at in 0 until kept) {
            left -= weights[at]
            if (left < 0) return order[at]
        }
        return order[kept - 1]
    }

    /** 24 bits of xorshift64*. */
    private fun draw(): Long {
        state = state xor (state ushr 12)
        state = state xor (state shl 25)
        state = state xor (state ushr 27)
        return (state * 0x2545F4914F6CDD1DL) ushr 40
    }
}

/** Ids of the ``count`` largest logits, best first; of equal ones the lower id. */
fun best(logits: FloatArray, count: Int): List<Int> {
    val keys = LongArray(logits.size) { id ->
        val bits = (logits[id] + 0f).toRawBits() // in the order of the floats, negative ones in the reverse
        (if (bits < 0) bits xor Int.MAX_VALUE else bits).inv().toLong() shl 32 or id.toLong()
    }
    keys.sort()
    return keys.take(count).map { it.toInt() }
}
