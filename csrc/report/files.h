// The few file calls the report needs; every failure is Error(kStorage) naming the path and the reason.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace contender {

void make_dirs(const std::string& dir);
int open_append(const std::string& path);  // created when missing; read and write
void write_all(int fd, const std::string& path, std::string_view data);
void cut_file(int fd, const std::string& path, int64_t bytes);
// Replaces the file in one step: a reader sees the old or the new text.
void replace_file(const std::string& path, std::string_view text);

}  // namespace contender
