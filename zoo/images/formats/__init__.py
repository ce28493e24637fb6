"""One module a file format: what its header declares, and its pixels.

A module has two functions. `size(data)` gives `(width, height)` in microseconds. `parse(data)` reads the rest of the
header into a `Header`, which is all that decoding needs: nothing is allocated for pixels before the caller has checked
its size and the memory that it takes. Both raise `Refused`. Only what carries pixels ever reaches a decoder of Pillow
or OpenCV: text, EXIF, colour profiles, thumbnails and further frames stay behind.
"""
