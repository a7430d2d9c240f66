package dev.slmkit.sample.backends

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import dev.slmkit.sample.core.Export
import dev.slmkit.sample.core.ModelBackend
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.LongBuffer

/** ONNX Runtime through its Java API, the same on Android and on the JVM; called as slmkit's contract of ort says. */
class OrtBackend(export: Export, private val chunk: Int, threads: Int) : ModelBackend {
    override val name = "ONNX Runtime, CPU, $threads threads"
    private val environment = OrtEnvironment.getEnvironment()
    private val session = OrtSession.SessionOptions().use {
        it.setIntraOpNumThreads(threads)
        export.settings("session_options").forEach { (key, value) -> it.addConfigEntry(key, value) } // the recipe's
        environment.createSession(File(export.folder, export.fact("model")).path, it)
    }
    private val past = session.inputInfo.filterKeys { it.startsWith("past") }.mapValues { it.value.info as TensorInfo }
    private val attends = "attention_mask" in session.inputNames
    private var state: Map<String, OnnxTensor> = emptyMap()
    private var result: OrtSession.Result? = null // it owns the state, once there is one
    private var length = 0

    override fun reset() {
        free()
        length = 0
        state = past.mapValues { (_, info) -> zeros(info) }
    }

    private fun zeros(info: TensorInfo): OnnxTensor {
        // the batch is 1; what else varies is the number of past tokens, none at first
        val shape = info.shape.mapIndexed { at, size -> if (at == 0) 1L else maxOf(size, 0L) }.toLongArray()
        val bytes = ByteBuffer.allocateDirect(shape.fold(info.type.size.toLong(), Long::times).toInt())
        return OnnxTensor.createTensor(environment, bytes.order(ByteOrder.nativeOrder()), shape, info.type)
    }

    override fun feed(ids: List<Int>): FloatArray {
        ids.chunked(chunk).forEach { run(it) }
        val tensor = result!!.get("logits").get() as OnnxTensor // [1, 1, V], or [1, T, V]
        val logits = tensor.floatBuffer
        val last = FloatArray(tensor.info.shape.last().toInt())
        logits.position(logits.capacity() - last.size)
        return last.also { logits.get(it) }
    }

    private fun run(ids: List<Int>) {
        length += ids.size
        val inputs = HashMap(state)
        val words = row(LongArray(ids.size) { ids[it].toLong() }).also { inputs["input_ids"] = it }
        val mask = if (attends) row(LongArray(length) { 1 }).also { inputs["attention_mask"] = it } else null
        val next = words.use { mask.use { session.run(inputs) } }
        free()
        result = next
        state = past.keys.associateWith { next.get(outputOf(it)).get() as OnnxTensor }
    }

    private fun outputOf(input: String) = input.replace("past_key_values", "present").replace("past_", "present_")

    private fun row(values: LongArray): OnnxTensor =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(values), longArrayOf(1, values.size.toLong()))

    private fun free() {
        result?.close() ?: state.values.forEach { it.close() }
        result = null
        state = emptyMap()
    }

    override fun close() {
        free()
        session.close()
    }
}
