package dev.slmkit.sample.core

import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNamingStrategy

/** JSON as Python writes it, with keys in snake case. Keys that the app does not read are left alone. */
@OptIn(ExperimentalSerializationApi::class)
val json = Json {
    ignoreUnknownKeys = true
    encodeDefaults = true
    explicitNulls = false
    namingStrategy = JsonNamingStrategy.SnakeCase
}

@Serializable
class Head(val format: String? = null)

/** What Python wrote into a file for the app; refused if it has another format. */
inline fun <reified T> written(text: String, file: String, format: String): T {
    val found = json.decodeFromString<Head>(text).format
    demand(found == format) { "$file has the format $found; this app reads $format" }
    return json.decodeFromString(text)
}
