//! Keeping the guardian small: it lives as long as the container, in a program whose other parts are large.
#![allow(unsafe_code)]

use std::ptr;

/// Gives back the pages of code and constants that starting up has touched. They are in the page cache anyway; what the guardian's loop
/// needs of them (a few) comes back at the next signal. The rest, several times what the loop needs, no longer counts as
/// in use, so the kernel may drop it when memory gets tight.
pub(super) fn release_program_pages() {
    // SAFETY: calls `release` for every loaded object, with a description that is valid during the call.
    unsafe { libc::dl_iterate_phdr(Some(release), ptr::null_mut()) };
}

/// Ends the process without the exit handlers of every loaded library: nothing is buffered, and their code was released above.
pub(super) fn exit(code: u8) -> ! {
    // SAFETY: ends the process; what other threads or handlers might have to do does not exist in the guardian.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

unsafe extern "C" fn release(info: *mut libc::dl_phdr_info, _: libc::size_t, _: *mut libc::c_void) -> libc::c_int {
    /// Pages are at least this large, and segments begin on a page.
    const PAGE: usize = 4096;
    // SAFETY: `dl_iterate_phdr` passes a valid description.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the loader's table of `dlpi_phnum` segments, which lives as long as the object is loaded.
    let segments = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for segment in segments {
        if segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_W == 0 {
            let address = (info.dlpi_addr + segment.p_vaddr) as usize;
            let start = address & !(PAGE - 1);
            let length = address - start + segment.p_memsz as usize;
            // SAFETY: a segment that was never writable equals the file it is mapped from, so its pages can be read from there again.
            // Where pages are larger than PAGE and the start is not on one, the kernel refuses and nothing happens.
            unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
        }
    }
    0
}
