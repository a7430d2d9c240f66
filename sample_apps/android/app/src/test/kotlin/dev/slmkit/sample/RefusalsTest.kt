package dev.slmkit.sample

import dev.slmkit.sample.backends.Models
import dev.slmkit.sample.core.Export
import dev.slmkit.sample.core.Json
import dev.slmkit.sample.core.Refused
import dev.slmkit.sample.core.Tokenizer
import dev.slmkit.sample.core.obj
import java.io.File
import kotlin.io.path.createTempDirectory
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Right or refused: what the app cannot do, it says before it begins. */
class RefusalsTest {
    private val folder = createTempDirectory().toFile()
    private val original = Export.of(TestData.assets).first { it.artifact == "ort" }

    @After
    fun clean() {
        folder.deleteRecursively()
    }

    private fun reason(call: () -> Unit): String = assertThrows(Refused::class.java) { call() }.message!!

    /** A copy of the app's model whose manifest is changed. */
    private fun changed(vararg change: Pair<String, Any?>): Models {
        TestData.assets.copyRecursively(folder, overwrite = true)
        val file = File(folder, "${original.folder.name}/${Export.FILE}")
        file.writeText(Json.write(Json.parse(file.readText()).obj() + change))
        return Models(folder, folder) { Long.MAX_VALUE }
    }

    @Test
    fun a_damaged_file_is_found_by_its_hash_and_a_cut_one_by_its_size() {
        changed()
        val data = File(folder, "${original.folder.name}/${original.facts["model"]}")
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
    fun a_manifest_of_another_version_is_refused() {
        assertTrue("version 9" in reason { changed("schema_version" to 9.0) })
    }

    @Test
    fun tokenizers_of_other_kinds_are_refused_by_name() {
        val home = TestData.vectors.first { it.name == "home" } // byte-level, whatever the app carries
        val root = Json.parse(File(home, "tokenizer.json").readText()).obj()
        fun tokenizer(vararg change: Pair<String, Any?>) = reason { Tokenizer(Json.write(root + change)) }
        fun model(vararg change: Pair<String, Any?>) = tokenizer("model" to root["model"].obj() + change)
        assertTrue("Unigram" in model("type" to "Unigram"))
        assertTrue("dropout" in model("dropout" to 0.1))
        assertTrue("end_of_word_suffix" in model("end_of_word_suffix" to "</w>"))
        assertTrue("Lowercase" in tokenizer("normalizer" to mapOf("type" to "Lowercase")))
        assertTrue("WordPiece" in tokenizer("decoder" to mapOf("type" to "WordPiece")))
        val split = mapOf("type" to "Split", "pattern" to mapOf("Regex" to "a+"), "behavior" to "Isolated", "invert" to false)
        assertTrue("a+" in tokenizer("pre_tokenizer" to split))
        assertTrue("normalized text" in tokenizer("normalizer" to mapOf("type" to "NFC"), "added_tokens" to listOf(mapOf("id" to 0.0, "content" to "<x>", "normalized" to true))))
        assertTrue("whole word" in tokenizer("added_tokens" to listOf(mapOf("id" to 0.0, "content" to "<x>", "single_word" to true))))
        assertTrue("ByteLevel" in tokenizer("pre_tokenizer" to mapOf("type" to "ByteLevel", "add_prefix_space" to true, "use_regex" to true)))
    }

    @Test
    fun json_is_read_or_refused() {
        val value = mapOf("a\"\n\\\u0001é\ud83d\ude00" to listOf(1.0, -2.5e-3, true, false, null, "", emptyList<Any>(), emptyMap<String, Any>()))
        assertEquals(value, Json.parse(Json.write(value)))
        assertEquals("\u00e9\ud83d\ude00/", Json.parse("\"\\u00e9\\ud83d\\ude00\\/\""))
        for (wrong in listOf("", "{", "[1,]", "[1 2]", "{\"a\"}", "tru", "\"\\u12\"", "\"a", "1 2", "nan", "{\"a\":1,}")) {
            assertThrows(wrong, IllegalArgumentException::class.java) { Json.parse(wrong) }
        }
    }
}
