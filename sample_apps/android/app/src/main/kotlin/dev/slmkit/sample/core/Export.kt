package dev.slmkit.sample.core

import java.io.File
import java.security.MessageDigest
import kotlinx.serialization.Serializable
import kotlinx.serialization.Transient
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonPrimitive

/** The reason why this app cannot do something, in a sentence that the screen shows. */
class Refused(message: String) : Exception(message)

inline fun demand(holds: Boolean, otherwise: () -> String) {
    if (!holds) throw Refused(otherwise())
}

/** One artifact as `slmkit export` writes it: the facts that an app needs, and its files. */
@Serializable
class Export(
    private val schemaVersion: Int,
    val model: String,
    val artifact: String,
    private val devices: List<String>,
    val memory: Long, // bytes, at the whole context
    val contextLength: Int,
    val stopIds: Set<Int>,
    val generation: Generation,
    private val facts: Map<String, JsonElement>,
    private val files: List<Entry>,
) {
    @Serializable
    class Entry(val path: String, val size: Long, val sha256: String)

    @Transient lateinit var folder: File
    val chips get() = devices.joinToString(" or ")
    val hashes get() = files.associate { it.path to it.sha256 } // the files', once ``checkFiles`` has passed

    /** A fact of the artifact's contract; several in words. */
    fun fact(key: String): String {
        val fact = facts.getValue(key)
        return (fact as? JsonArray ?: listOf(fact)).joinToString { it.jsonPrimitive.content }
    }

    /** A fact that is a table of words; empty if there is none. */
    fun settings(key: String) = (facts[key] as? JsonObject).orEmpty().mapValues { it.value.jsonPrimitive.content }

    /** Refuses a model for which ``available`` bytes are too few. */
    fun checkMemory(available: Long) {
        demand(memory <= available) {
            "$model needs ${mega(memory)} MB of memory and ${mega(available)} MB are free: " +
                "close other apps, or take a smaller model"
        }
    }

    /** Refuses files that are not those which were exported: sizes first, then SHA-256. */
    fun checkFiles() {
        val known = files.associateBy { File(folder, it.path) }
        for ((file, entry) in known) demand(file.length() == entry.size) {
            "$file has ${file.length()} bytes, not ${entry.size}: copy the model again"
        }
        for ((file, entry) in known) demand(sha256(file) == entry.sha256) { "$file is damaged: copy the model again" }
    }

    private fun mega(bytes: Long) = (bytes + 999_999) / 1_000_000

    private fun sha256(file: File): String {
        val digest = MessageDigest.getInstance("SHA-256")
        file.forEachBlock(1 shl 16) { buffer, count -> digest.update(buffer, 0, count) }
        return digest.digest().joinToString("") { "%02x".format(it) }
    }

    companion object {
        const val FILE = "slmkit-export.json"

        /** The exports below a folder, by name. */
        fun below(folder: File) = folder.listFiles().orEmpty().filter { File(it, FILE).isFile }.sorted().map { of(it) }

        /** The export in a folder. */
        fun of(folder: File): Export {
            val export = json.decodeFromString<Export>(File(folder, FILE).readText())
            val version = export.schemaVersion
            demand(version == 1) { "$folder: $FILE has the schema version $version; this app reads 1" }
            return export.apply { this.folder = folder }
        }
    }
}
