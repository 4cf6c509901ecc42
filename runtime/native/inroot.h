/* Paths inside a container's root, which belongs to whoever made the image: nothing here ever leads out of it. */
#ifndef WHARF_INROOT_H
#define WHARF_INROOT_H

#include "base.h"

/* Open path inside root with flags (O_CLOEXEC is added). Below /proc, /sys and /dev symlinks are refused (ELOOP): an
 * image must not choose where those are (CVE-2019-19921), nor have them stand behind a link of its own, where a volume
 * is to be mounted (CVE-2023-27561). Owned by the caller; -1 with errno. */
MUST_CHECK int in_root(int root, const char *path, int flags);

/* The same with O_PATH; what is missing is made: directories, and the leaf as a directory or (file) an empty file. */
MUST_CHECK int make_in_root(int root, const char *path, bool file);

/* O_PATH fd of the directory that path's last component is to be made in (made when missing); the component into
 * name[256]. */
MUST_CHECK int parent_in_root(int root, const char *path, char name[256]);

#endif
