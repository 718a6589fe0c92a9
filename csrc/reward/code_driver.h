// What Python runs in the sandbox before the program of a completion, as -c text: /program.py is the program.
#pragma once

namespace contender {

// The program as __main__. Without `site`, which costs a third of the start, exit and quit have to be made.
constexpr const char* kPythonMain = R"py(
import builtins, sys
builtins.exit = builtins.quit = sys.exit
sys.argv = ['program.py']
del builtins, sys
exec(compile(open('/program.py', encoding='utf-8').read(), 'program.py', 'exec'))
)py";

// The program as a module, then one call after the other. stdin: {"function", "calls": [arguments...],
// "nonce"}. Descriptor 3: a line "<nonce> <index> <JSON>" a call. The function may also be a method of a
// class Solution. The module `json` takes longer to import than Python to start; its inner half, in C, does
// not.
constexpr const char* kPythonCalls = R"py(
import _json, builtins, sys
class Rules:
    strict, object_hook, object_pairs_hook = True, None, None
    parse_float, parse_int, parse_constant = float, int, float
def refuse(value):
    raise TypeError(type(value).__name__ + ' is no value of JSON')
request, _ = _json.make_scanner(Rules)(sys.stdin.read(), 0)
encode = _json.make_encoder({}, refuse, _json.encode_basestring_ascii, None, ': ', ', ', False, False, False)
results = open(3, 'w')
builtins.exit = builtins.quit = sys.exit
sys.argv = ['program.py']
sys.modules['program'] = module = type(sys)('program')
exec(compile(open('/program.py', encoding='utf-8').read(), 'program.py', 'exec'), module.__dict__)
function = module.__dict__.get(request['function'])
if function is None:
    function = getattr(module.Solution(), request['function'])
for index, arguments in enumerate(request['calls']):
    text = ''.join(encode(function(*arguments), 0))
    results.write(f"{request['nonce']} {index} {text}\n")
    results.flush()
)py";

}  // namespace contender
