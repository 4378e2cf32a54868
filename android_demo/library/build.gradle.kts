plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "io.edges2s.android"
    compileSdk = 35
    ndkVersion = "27.2.12479018"

    defaultConfig {
        minSdk = 24
        consumerProguardFiles("consumer-rules.pro")
        ndk { abiFilters += listOf("arm64-v8a", "armeabi-v7a", "x86_64") }
        // The core is C without C++: no C++ library goes into the app.
        externalNativeBuild { cmake { arguments += listOf("-DANDROID_STL=none", "-DCMAKE_BUILD_TYPE=Release") } }
    }

    externalNativeBuild {
        cmake {
            path = file("src/main/cpp/CMakeLists.txt")
            version = "3.22.1"
        }
    }

    // src/core is plain Java 8: it knows nothing of Android, and its tests run on any JVM.
    sourceSets["main"].java.srcDir("src/core/java")

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
    kotlinOptions { jvmTarget = "1.8" }
}

dependencies {
    api(libs.coroutines) // Flow is a part of summaryFlow's signature
    testImplementation(libs.junit)
}
