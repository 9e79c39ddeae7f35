"""NWPU-RESISC45: class folders in a .rar, which is unpacked by hand."""

from karst_bench.data.builders.eurosat import ClassFolders
from karst_bench.data.builders.raw import Archive


class Resisc45(ClassFolders):
    """Keys: <class>_<class>_<nnn>.jpg. Label: the class, alphabetical."""

    archives = (
        Archive("NWPU-RESISC45", also=("NWPU-RESISC45.zip", "NWPU-RESISC45.tar.gz", "NWPU-RESISC45.tar", "resisc45")),
    )
    instructions = (
        "NWPU-RESISC45.rar comes from the authors' OneDrive (https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs, about"
        " 0.4 GB); unpack it (unrar x or 7z x), and give the folder NWPU-RESISC45 that holds the 45 class folders"
    )
