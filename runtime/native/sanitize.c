/* Only in a build with sanitizers. The leak checker traces the process at its end, which a shim that cannot be dumped
 * does not allow; there is nothing to leak, since nothing is allocated. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
