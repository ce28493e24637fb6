"""pocketzoo's web page as a Hugging Face Space. Spaces run this file and expect a server on port 7860."""

import os

from serve.cli.serve import serve
from serve.service.settings import Settings

if __name__ == "__main__":
    serve(
        Settings(
            host=os.environ.get("ZOO_HOST", "0.0.0.0"),
            port=int(os.environ.get("ZOO_PORT", "7860")),
            allowed_hosts=(os.environ.get("SPACE_HOST", "localhost"),),  # NAME-SPACE.hf.space, set by the Space
            frame_ancestors=("https://huggingface.co",),  # whose page shows the Space in a frame
        )
    )
