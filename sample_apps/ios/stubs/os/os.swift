// The function of os/proc.h that the app calls, as a signature.
@available(macOS, unavailable) public func os_proc_available_memory() -> Int { fatalError() }
