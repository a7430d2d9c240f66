#!/usr/bin/env bash
# Fetch the tools that compile, test and pack the Android sample app, once, and print the folder that they are in.
# usage: android.sh [--where]      needs JDK 17 or newer, Python, npm, gcc, zip and unzip; packages come from Debian, PyPI
#                                  and npm. --where: print the folder, there or not, and fetch nothing
#
# The folder lies in $SLMKIT_TOOLS, else in the cache of slmkit. Its name is a hash of these scripts, so that other pins
# make another folder. Nothing of the machine changes. The tools are for tests: an app gets its libraries from Gradle.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${SLMKIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slmkit}
all=${SLMKIT_TOOLS:-$cache/tools}
tools=$all/android-$(cat "$here"/{android.sh,debs.sh,ort_shim.c} | sha256sum | cut -c 1-12)
if [ "${1-}" = --where ]; then echo "$tools"; exit; fi
for each in javac python3 npm gcc zip unzip; do
    command -v "$each" > /dev/null || { echo "$each is not installed" >&2; exit 1; }
done
mkdir -p "$all"; exec 9> "$tools.lock"; flock 9 # one fetches, others wait
if [ -d "$tools" ]; then echo "$tools"; exit; fi

work=$(mktemp -d "$all/.fetching-XXXXXX"); trap 'rm -rf "$work"' EXIT
new=$work/new; mkdir -p "$new"/{kotlinc,native}

again() { # a registry's bad minute is no failure
    for pause in 2 10 30; do "$@" && return; echo "again: $*" >&2; sleep $pause; done
    "$@"
}
wheel() { # NAME==VERSION FILES...: of a wheel, without folders
    local name=$1; shift
    again python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --python-version 3.12 --dest "$work/wheel" "$name" >&2
    unzip -qjo "$work"/wheel/*.whl "$@" -d "$work/files"; rm "$work"/wheel/*.whl
}

# Kotlin 2.3 with kotlinx-serialization 1.9, and kotlinx-coroutines 1.10 and the compiler's plugin for serialization out of
# the jar that a notebook's kernel carries; the plugin is on the compiler's class path, and a jar that names it calls it.
wheel kotlin-jupyter-kernel==0.19.0.944 'run_kotlin_kernel/jars/*'
mv "$work"/files/*.jar "$new/kotlinc"; cp "$new"/kotlinc/kotlin-stdlib-*.jar "$new/kotlin-stdlib.jar"
for each in core json; do cp "$new"/kotlinc/kotlinx-serialization-$each-jvm-*.jar "$new/kotlinx-serialization-$each.jar"; done
(mkdir -p "$work/s/META-INF/services" && cd "$work/s" && echo org.jetbrains.kotlinx.serialization.compiler.extensions.SerializationComponentRegistrar \
    > META-INF/services/org.jetbrains.kotlin.compiler.plugin.CompilerPluginRegistrar && zip -qr "$new/serialization-plugin.jar" .)
(mkdir "$work/c" && cd "$work/c" && unzip -qo "$new"/kotlinc/kotlin-jupyter-kernel-*-all.jar 'kotlinx/coroutines/*' '_COROUTINE/*' \
    META-INF/kotlinx-coroutines-core.kotlin_module && zip -qr "$new/kotlinx-coroutines.jar" .)

# D8 3.3 (inside bundletool), aapt2 2.20 and the resources of API 36 (inside apktool).
wheel mobsf==4.5.3 'mobsf/StaticAnalyzer/tools/bundletool-all-*.jar' 'mobsf/StaticAnalyzer/tools/apktool_*.jar'
mv "$work"/files/bundletool-all-*.jar "$new/bundletool.jar"
unzip -qjo "$work"/files/apktool_*.jar prebuilt/linux/aapt2 prebuilt/android-framework.jar -d "$new"
mv "$new/android-framework.jar" "$new/framework.apk"; chmod +x "$new/aapt2"

# ONNX Runtime's Java API for Linux: 1.17, which the shim runs on the newer runtime of the Python wheel.
wheel pyserini==0.40.0 'pyserini/resources/jars/*'
(mkdir "$work/j" && cd "$work/j" && unzip -qo "$work"/files/anserini-*-fatjar.jar 'ai/onnxruntime/*.class' \
    ai/onnxruntime/native/linux-x64/libonnxruntime4j_jni.so && mv ai/onnxruntime/native/linux-x64/*.so "$new/native" \
    && rm -r ai/onnxruntime/native && zip -qr "$new/onnxruntime-java.jar" ai)
echo 'VERS_1.17.0 { global: OrtGetApiBase; OrtSessionOptionsAppendExecutionProvider_CPU; local: *; };' > "$work/map"
gcc -shared -fPIC -O1 -Wall -Werror "$here/ort_shim.c" -Wl,-soname,libonnxruntime.so.1.17.0 \
    -Wl,--version-script="$work/map" -ldl -o "$new/native/libonnxruntime.so"

# ONNX Runtime 1.29 for Android: classes and libraries, as in the AAR of Maven Central.
(cd "$work" && again npm pack --silent com.github.asus4.onnxruntime@0.4.9 > /dev/null \
    && tar xzf com.github.asus4.onnxruntime-0.4.9.tgz package/Plugins/Android/onnxruntime.aar \
    && unzip -qo package/Plugins/Android/onnxruntime.aar classes.jar 'jni/*' -d aar)
mv "$work/aar/classes.jar" "$new/onnxruntime-android.jar"; mv "$work/aar/jni" "$new/jni"

# JUnit, JNA and apksigner; android.jar of API 23, and of a later API the one class that ONNX Runtime's signatures name.
again "$here/debs.sh" --alone bookworm amd64 "$work/stable" apksigner libapksig-java libjna-java libjna-jni junit4 libhamcrest-java >&2
again "$here/debs.sh" --alone sid amd64 "$work/sid" libandroid-23-java >&2
for each in apksigner apksig jna junit4 hamcrest; do cp -L "$work/stable/usr/share/java/$each.jar" "$new"; done
(cd "$work" && mkdir -p com/sun/jna/linux-x86-64 && cp -L stable/usr/lib/*/jni/libjnidispatch.system.so \
    com/sun/jna/linux-x86-64/libjnidispatch.so && zip -qr "$new/jna.jar" com) # where JNA looks for it
cp -L "$work/sid/usr/share/java/com.android.android-23.jar" "$new/android.jar"
symbols=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")/lib/ct.sym
mkdir -p "$work/o/java/util"; unzip -p "$symbols" 8/java.base/java/util/Optional.sig > "$work/o/java/util/Optional.class"
(cd "$work/o" && zip -qr "$new/android-later.jar" java)

mv "$new" "$tools"; echo "$tools"
