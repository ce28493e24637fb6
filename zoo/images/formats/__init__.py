"""One module per file format, each with two functions.

`size(data)` returns `(width, height)` in microseconds. `parse(data)` reads the rest of the header into a `Header`,
which is all that decoding needs. Both raise `DecodeError`. No memory is allocated for pixels before the caller has
checked their number and the memory that decoding takes. Decoders of Pillow and OpenCV only get the parts of a file that
carry pixels; texts, EXIF, colour profiles, thumbnails and further frames are left out.
"""
