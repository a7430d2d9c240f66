package dev.slmkit.sample

import ai.onnxruntime.OrtException
import dev.slmkit.sample.backends.Models
import dev.slmkit.sample.core.ChatForm
import dev.slmkit.sample.core.Export
import dev.slmkit.sample.core.Refused
import dev.slmkit.sample.core.Tokenizer
import java.io.File
import kotlin.io.path.createTempDirectory
import org.junit.After
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Right or refused: what the app cannot do, it says before it begins. */
class RefusalsTest {
    private val folder = createTempDirectory().toFile()
    private val original = Export.below(TestData.assets).first { it.artifact == "ort" }

    @After
    fun clean() {
        folder.deleteRecursively()
    }

    private fun reason(call: () -> Unit): String = assertThrows(Refused::class.java) { call() }.message!!

    /** A copy of the app's model whose manifest is changed. */
    private fun changed(vararg change: Pair<String, Any?>): Models {
        TestData.assets.copyRecursively(folder, overwrite = true)
        val file = File(folder, "${original.folder.name}/${Export.FILE}")
        file.writeText(Plain.write(Plain.parse(file.readText()).obj() + change))
        return Models(folder, folder) { Long.MAX_VALUE }
    }

    @Test
    fun a_damaged_file_is_found_by_its_hash_and_a_cut_one_by_its_size() {
        changed()
        val data = File(folder, "${original.folder.name}/${original.fact("model")}")
        val bytes = data.readBytes()
        data.writeBytes(bytes.also { it[it.size / 2] = (it[it.size / 2] + 1).toByte() })
        assertTrue("is damaged" in reason { Models(folder, folder) { Long.MAX_VALUE }.open() })
        data.writeBytes(bytes.copyOf(100))
        assertTrue("has 100 bytes" in reason { Models(folder, folder) { Long.MAX_VALUE }.open() })
    }

    @Test
    fun a_model_larger_than_the_free_memory_is_not_loaded() {
        val said = reason { Models(TestData.assets, folder) { 1 }.open() }
        assertTrue(said, "MB of memory and 1 MB are free" in said)
    }

    @Test
    fun artifacts_of_other_runtimes_are_named_with_what_they_need() {
        for ((artifact, needs) in listOf("hexagon" to "an NPU of sm8650 or sm8750 and com.qualcomm.qti:qnn", "mlc" to "a GPU of sm8650", "coreml" to "Core ML", "other" to "not known")) {
            val said = reason { changed("artifact" to artifact, "devices" to listOf("sm8650", "sm8750"), "facts" to mapOf("packages" to listOf("com.qualcomm.qti:qnn"))).open() }
            assertTrue(said, needs in said)
        }
    }

    @Test
    fun options_of_the_session_reach_onnx_runtime() {
        val facts = Plain.parse(File(original.folder, Export.FILE).readText()).obj()["facts"].obj()
        fun opened(option: Pair<String, String>) = changed("facts" to facts + ("session_options" to mapOf(option))).run { backend(exports.first()).close() }
        opened("mlas.disable_kleidiai" to "1")
        val said = assertThrows(OrtException::class.java) { opened("optimization.minimal_build_optimizations" to "nonsense") }
        assertTrue(said.message, "nonsense" in said.message!!)
    }

    @Test
    fun a_manifest_of_another_version_is_refused() {
        assertTrue("version 9" in reason { changed("schema_version" to 9.0) })
    }

    @Test
    fun files_of_another_format_are_refused() {
        val files = mapOf<String, (String) -> Unit>(
            "tokens.json" to { Tokenizer(it) },
            "chat.json" to { ChatForm.of(it) },
        )
        for ((file, read) in files) {
            val text = File(TestData.vectors.first { it.name == "home" }, file).readText()
            val said = reason { read(text.replace(Regex("slmkit-app-\\w+/1"), "slmkit-app/9")) }
            assertTrue(said, said.startsWith("$file has the format slmkit-app/9; this app reads slmkit-app-"))
            assertThrows(IllegalArgumentException::class.java) { read(text.dropLast(9)) }
        }
    }
}
