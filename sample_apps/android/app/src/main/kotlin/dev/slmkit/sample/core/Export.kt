package dev.slmkit.sample.core

import java.io.File
import java.security.MessageDigest

/** The reason why this app cannot do something, in a sentence that the screen shows. */
class Refused(message: String) : Exception(message)

inline fun demand(holds: Boolean, otherwise: () -> String) {
    if (!holds) throw Refused(otherwise())
}

/** One artifact as `slmkit export` writes it: the facts that an app needs, and its files. */
class Export(val folder: File) {
    private val root = Json.parse(File(folder, FILE).readText()).obj()

    init {
        val version = root["schema_version"].int()
        demand(version == 1) { "$folder: $FILE has the schema version $version; this app reads 1" }
    }

    val model = root["model"] as String
    val artifact = root["artifact"] as String
    val devices = root["devices"].list().joinToString(" or ")
    val memory = (root["memory"] as Double).toLong() // bytes, at the whole context
    val contextLength = root["context_length"].int()
    val stopIds = root["stop_ids"].ints().toSet()
    val generation = root["generation"].obj()
    val facts = root["facts"].obj()
    val tokenizer = File(folder, "${(root["tokenizer"] as String?)?.plus("/") ?: ""}tokenizer.json")

    /** Refuses a model for which ``available`` bytes are too few. */
    fun checkMemory(available: Long) {
        demand(memory <= available) {
            "$model needs ${mega(memory)} MB of memory and ${mega(available)} MB are free: " +
                "close other apps, or take a smaller model"
        }
    }

    /** Refuses files that are not those which were exported: sizes first, then SHA-256. */
    fun checkFiles() {
        val files = root["files"].list().map { it.obj() }.associateBy { File(folder, it["path"] as String) }
        for ((file, known) in files) {
            val size = (known["size"] as Double).toLong()
            demand(file.length() == size) { "$file has ${file.length()} bytes, not $size: copy the model again" }
        }
        for ((file, known) in files) {
            demand(sha256(file) == known["sha256"]) { "$file is damaged: copy the model again" }
        }
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
        fun of(folder: File) = folder.listFiles().orEmpty().filter { File(it, FILE).isFile }.sorted().map { Export(it) }
    }
}
