#include "grpo/sample.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/philox.h"

namespace contender {
namespace {

std::vector<Sample> random_samples(int count, PhiloxSequence& random) {
  std::vector<Sample> samples(count);
  for (int i = 0; i < count; ++i) {
    Completion& c = samples[i].completion;
    c.id = uint64_t{random.next()} << 32 | random.next();
    c.sample = i;
    c.finished = random.below(2);
    c.cancelled = random.below(2);
    const uint32_t length = random.below(5);
    for (uint32_t t = 0; t < length; ++t) {
      c.tokens.push_back(static_cast<int32_t>(random.below(272)));
      c.logp.push_back(-std::exp(10 * random.uniform() - 5));
      c.logp_sampled.push_back(c.logp.back() / 2);
      c.version.push_back(random.in_range(0, 1000));
    }
    Score& s = samples[i].score;
    for (float* f : {&s.reward, &s.accuracy, &s.format, &s.language, &s.overlong})
      *f = random.uniform() - 0.5f;
    s.valid = random.below(2);
    s.status = i % 2 ? "timeout" : "ok";
    samples[i].text = std::string("a\0b\xff", 4) + std::to_string(i);
  }
  return samples;
}

void expect_same(const Sample& a, const Sample& b) {
  EXPECT_EQ(a.completion.id, b.completion.id);
  EXPECT_EQ(a.completion.sample, b.completion.sample);
  EXPECT_EQ(a.completion.tokens, b.completion.tokens);
  EXPECT_EQ(a.completion.logp, b.completion.logp);
  EXPECT_EQ(a.completion.logp_sampled, b.completion.logp_sampled);
  EXPECT_EQ(a.completion.version, b.completion.version);
  EXPECT_EQ(a.completion.finished, b.completion.finished);
  EXPECT_EQ(a.completion.cancelled, b.completion.cancelled);
  EXPECT_EQ(a.score.reward, b.score.reward);
  EXPECT_EQ(a.score.accuracy, b.score.accuracy);
  EXPECT_EQ(a.score.format, b.score.format);
  EXPECT_EQ(a.score.language, b.score.language);
  EXPECT_EQ(a.score.overlong, b.score.overlong);
  EXPECT_EQ(a.score.valid, b.score.valid);
  EXPECT_EQ(a.score.status, b.score.status);
  EXPECT_EQ(a.text, b.text);
}

TEST(SampleBytes, GroupsComeBackOneAfterTheOther) {
  PhiloxSequence random(1, RandomStream::kTest, 12);
  const std::vector<int> counts = {3, 0, 1, 16};
  std::vector<std::vector<Sample>> groups;
  std::string bytes;
  for (size_t g = 0; g < counts.size(); ++g) {
    groups.push_back(random_samples(counts[g], random));
    bytes += pack_samples(uint64_t{1} << 31 | g, groups.back());
  }
  size_t at = 0;
  for (size_t g = 0; g < counts.size(); ++g) {
    const auto [id, samples] = unpack_samples(bytes, at);
    EXPECT_EQ(id, uint64_t{1} << 31 | g);
    ASSERT_EQ(samples.size(), groups[g].size());
    for (size_t i = 0; i < samples.size(); ++i) expect_same(samples[i], groups[g][i]);
  }
  EXPECT_EQ(at, bytes.size());
}

TEST(SampleBytes, CutShortAnywhereIsAnError) {
  PhiloxSequence random(2, RandomStream::kTest, 12);
  const std::string bytes = pack_samples(7, random_samples(3, random));
  for (size_t n = 0; n < bytes.size(); ++n) {
    size_t at = 0;
    try {
      unpack_samples(bytes.substr(0, n), at);
      ADD_FAILURE() << n << " of " << bytes.size() << " bytes were enough";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("packed samples are cut short"), std::string::npos) << e.what();
    }
  }
}

TEST(SampleBytes, ImpossibleCountIsAnErrorNotAnAllocation) {
  std::string bytes = pack_samples(7, std::vector<Sample>(1));
  for (size_t place : {size_t{8}, size_t{28}}) {  // number of samples; number of tokens of the first
    std::string wrong = bytes;
    const uint64_t huge = uint64_t{1} << 62;
    std::memcpy(wrong.data() + place, &huge, sizeof huge);
    size_t at = 0;
    EXPECT_THROW(unpack_samples(wrong, at), Error) << place;
  }
}

}  // namespace
}  // namespace contender
