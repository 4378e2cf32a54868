import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tiny_models and tiny_folders
